"""The loop on a tiny model: it learns, it stops cleanly, it continues bit for bit, it notices numbers gone bad."""

import gzip
import json
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from training_room import STEPS, Room, balanced, changed, for_the_room

from mlim.console import Terminal
from mlim.errors import InputError, MlimError
from mlim.recipe import Recipe, TraceConfig
from mlim.shards.items import ItemStore
from mlim.training.checkpoint import Checkpoints
from mlim.training.held_out import choose_items
from mlim.training.interrupt import Interrupted, stop_on_signals
from mlim.training.loop import LOG_EVERY, NOT_FINITE_FILE
from mlim.training.metric_logger import ALL_MODES, TIMED
from mlim.training.protocols import Validation

pytestmark = pytest.mark.integration


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    return for_the_room(tiny_recipe)


@pytest.fixture(scope="module")
def store(tiny_workspace) -> ItemStore:
    return ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMED} for row in history]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def stop_me() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise RuntimeError("pulled the plug")


@pytest.mark.parametrize(
    ("what", "raised", "shaped"),
    [(stop_me, Interrupted, lambda recipe: recipe), (crash, RuntimeError, lambda recipe: balanced(recipe, every=4))],
)
def test_a_stopped_training_continues_to_the_same_weights_and_losses(recipe, store, tmp_path, what, raised, shaped):
    recipe = shaped(recipe)
    through, expected = Room(recipe, store, tmp_path / "through").start()
    room = Room(recipe, store, tmp_path / "stopped")
    with pytest.raises(raised):
        room.start(at=13, what=what)
    again = Room(recipe, store, tmp_path / "stopped")
    weights, result = again.start()
    assert_same(weights, through)
    assert timeless(result.history) == timeless(expected.history)
    assert result.validation == expected.validation
    assert result.samples == STEPS * 4 * 2


def test_after_a_stop_the_new_run_shows_the_whole_curve(recipe, store, tmp_path):
    room = Room(recipe, store, tmp_path)
    with pytest.raises(Interrupted, match=f"SIGTERM after step 14 of {STEPS}"):
        room.start(at=12, what=stop_me)
    again = Room(recipe, store, tmp_path)
    again.start()
    assert [step for step, _ in again.sink.logged] == [8, 10, 16, 20, 24, 24]


def test_signal_handlers_come_back(recipe, store, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        Room(recipe, store, tmp_path).start(at=3, what=stop_me)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.fixture
def ctrl_c():
    """Ctrl-C as a terminal has it: shells start background jobs (a CI's, say) with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_is_not_caught():
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_further_sigterms_are_ignored_until_everything_is_saved():
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with stop_on_signals() as stop:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert stop.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_finished_training_is_not_repeated(recipe, store, tmp_path):
    first, _ = Room(recipe, store, tmp_path).start()
    second, _ = Room(recipe, store, tmp_path).start(at=0, what=crash)
    assert_same(first, second)


def test_losses_that_explode_name_the_step_and_the_items(recipe, store, tmp_path):
    optim = recipe.pretrain.optim.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": 0.0})
    hot = changed(recipe, optim=optim, max_skipped_steps=2)
    with pytest.raises(MlimError, match=r"step [234]: .* not a finite number; the batch held item-0\d\d, "):
        Room(hot, store, tmp_path).start()
    saved = [path.name for path in tmp_path.glob("step-*")]
    assert saved == []  # what is not finite never becomes a checkpoint
    listed = json.loads((tmp_path / NOT_FINITE_FILE).read_text())
    assert all(len(step["items"]) == 8 for step in listed)


def test_a_step_that_is_not_finite_is_left_out_and_counted(recipe, store, tmp_path):
    """As if its gradient had been 0 and the optimiser had not noticed: weights and moments stay."""
    for name, steps in (("before", 7), ("after", 8)):
        short = changed(recipe, steps=steps, optim=recipe.pretrain.optim.model_copy(update={"schedule": "constant"}))
        poisoned = frozenset({7}) if name == "after" else frozenset()
        weights, result = Room(short, store, tmp_path / name).start(poisoned=poisoned)
        if name == "before":
            before = weights
    assert_same(weights, before)
    assert result.skipped == 1
    assert all(math.isfinite(row["total"]) for row in result.history)


def test_a_training_goes_on_after_a_step_that_is_not_finite(recipe, store, tmp_path):
    healthy, _ = Room(recipe, store, tmp_path / "healthy").start()
    weights, result = Room(recipe, store, tmp_path / "poisoned").start(poisoned=frozenset({3, 9}))
    assert result.skipped == 2
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert any(not torch.equal(weights[name], healthy[name]) for name in weights)
    assert json.loads((tmp_path / "poisoned" / NOT_FINITE_FILE).read_text())[0]["step"] == 10


def test_a_bad_step_is_never_the_newest_of_a_checkpoint(recipe, store, tmp_path):
    """Step 5 would be saved; it is bad, so step 6 is."""
    room = Room(recipe, store, tmp_path)
    with pytest.raises(RuntimeError):
        room.start(at=8, what=crash, poisoned=frozenset({4}))
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000006"]


@pytest.mark.parametrize(
    ("at", "said", "saved"),
    [
        (8, "continues from the checkpoint of step 5", ["step-00000005"]),
        (2, "there is no checkpoint yet, the same command begins anew", []),
    ],
)
def test_a_stop_after_a_bad_step_says_what_is_saved(recipe, store, tmp_path, at, said, saved):
    """The step after the signal is the newest one, and is bad."""
    with pytest.raises(Interrupted, match=f"after step {at + 2} of .* not finite and is not saved; .*{said}"):
        Room(recipe, store, tmp_path).start(at=at, what=stop_me, poisoned=frozenset({at + 1}))
    assert [path.name for path in tmp_path.glob("step-*")] == saved


def test_a_warm_up_that_is_longer_than_the_training_is_said(recipe, store, tmp_path, capfd):
    optim = recipe.pretrain.optim.model_copy(update={"learning_rate": 0.001, "warmup_steps": 4})
    Room(changed(recipe, steps=2, optim=optim), store, tmp_path).start()
    assert "warmup_steps 4 is more than the 2 steps" in (said := "".join(capfd.readouterr()))
    assert "rises to 0.0005 only, not to 0.001" in said


@pytest.mark.parametrize("cut", [(2, 4), (4, 2)])
def test_micro_batches_change_the_memory_not_the_result(recipe, store, tmp_path, cut):
    """Eight items a step, as one batch and in parts (without dropout, which is drawn for each part).

    Weights are a little further apart than losses: the bias of the attention's keys has a gradient of rounding alone,
    which Adam turns into whole steps.
    """
    still = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dropout": 0.0})})
    found = {}
    for size, parts in ((8, 1), cut):
        short = changed(still, batch_size=size, accumulate=parts, steps=6)
        found[size] = Room(short, store, tmp_path / str(size)).start()
    (whole, expected), (weights, result) = found[8], found[cut[0]]
    for name, value in whole.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-4)
    for one, other in zip(result.history, expected.history, strict=True):
        assert one["total"] == pytest.approx(other["total"], abs=1e-5)


def computed(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other settings of how it is computed."""
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update=changes)})


def test_blocks_that_are_computed_again_give_the_same_weights(recipe, store, tmp_path):
    """With dropout: it is drawn again as it was."""
    short = changed(recipe, steps=6)
    kept, _ = Room(short, store, tmp_path / "kept").start()
    again, _ = Room(computed(short, checkpoint_blocks=True), store, tmp_path / "again").start()
    assert_same(kept, again)


def test_bf16_is_close_to_fp32_and_its_losses_are_fp32(recipe, store, tmp_path):
    short = changed(recipe, steps=6)
    _, full = Room(short, store, tmp_path / "full").start()
    weights, half = Room(computed(short, precision="bf16"), store, tmp_path / "half").start()
    assert all(value.dtype == torch.float32 for value in weights.values())
    for one, other in zip(full.history, half.history, strict=True):
        assert one["total"] == pytest.approx(other["total"], rel=0.02)
    assert [row["total"] for row in full.history] != [row["total"] for row in half.history]


def test_a_trace_of_the_steps_that_were_asked_for(recipe, store, tmp_path):
    traced = computed(changed(recipe, steps=4), trace=TraceConfig(first=2, last=3))
    path = tmp_path / "trace.json.gz"
    Room(traced, store, tmp_path / "traced").start(trace=path)
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = [event for event in events if event.get("name", "").startswith("Optimizer.step")]
    assert len(steps) == 2


def test_a_trace_whose_last_step_never_comes_is_written_at_the_end(recipe, store, tmp_path):
    traced = computed(changed(recipe, steps=4), trace=TraceConfig(first=3, last=99))
    path = tmp_path / "trace.json.gz"
    Room(traced, store, tmp_path / "traced").start(trace=path)
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert sum(event.get("name", "").startswith("Optimizer.step") for event in events) == 2
    late = computed(changed(recipe, steps=4), trace=TraceConfig(first=5, last=99))
    with pytest.raises(InputError, match=r"trace.first 5 is after the last of the 4 steps .* at most 4"):
        Room(late, store, tmp_path / "late").start(trace=path)


def test_a_tiny_model_learns_a_handful_of_items(recipe, store, tmp_path):
    optim = recipe.pretrain.optim.model_copy(update={"learning_rate": 5e-3, "schedule": "constant"})
    changes = {"steps": 120, "accumulate": 1, "batch_size": 8, "optim": optim, "validate_every": 120}
    eager = changed(recipe, **changes)
    _, result = Room(eager, store, tmp_path).start()

    def light(name: str) -> list[float]:
        return [row[name] for row in result.history if row["kind"] == "train" and row["mode"] == "light"]

    assert light("mlm")[-1] < 0.4 * light("mlm")[0]
    assert light("recon")[-1] < 0.35 * light("recon")[0]


def test_every_loss_is_logged_by_mode_and_never_from_every_step(recipe, store, tmp_path):
    room = Room(recipe, store, tmp_path)
    _, result = room.start()
    training = [values for _, values in room.sink.logged if "train/total" in values]
    assert len(training) == -(-STEPS // LOG_EVERY)
    assert {"learning_rate", "samples_per_second", "grad_norm", "train/recon"} <= training[0].keys()
    modes = {row["mode"] for row in result.history if row["kind"] == "validation"}
    assert modes == {"heavy_image", "heavy_text", "light", ALL_MODES}
    last = [row for row in result.history if row["kind"] == "validation" and row["mode"] == ALL_MODES][-1]
    assert last["mlm"] == result.validation["mlm"]  # what a chart shows is what a table shows
    assert not any("mlm" in row for row in result.history if row["mode"] == "heavy_image")


def test_validation_repeats_exactly_and_leaves_training_as_it_was(recipe, store, tmp_path):
    def never(step: int) -> Validation:
        return Validation({}, {"total": 0.0})

    often = changed(recipe, validate_every=1)
    assert_same(
        Room(often, store, tmp_path / "a").start()[0], Room(often, store, tmp_path / "b").start(validate=never)[0]
    )


def test_the_best_model_by_validation_wins_and_the_later_one_on_a_tie(recipe, store, tmp_path):
    values = iter([0.5, 0.9, 0.9])
    _, result = Room(recipe, store, tmp_path).start(validate=lambda step: Validation({}, {}, next(values)))
    assert (result.best_step, result.best_value) == (24, 0.9)
    values = iter([0.5, 0.9, 0.1])
    weights, result = Room(recipe, store, tmp_path / "b").start(validate=lambda step: Validation({}, {}, next(values)))
    assert (result.best_step, result.best_value) == (16, 0.9)
    assert any(not torch.equal(weights[name], value) for name, value in _last_saved(tmp_path / "b").items())


def _last_saved(folder: Path) -> Mapping[str, torch.Tensor]:
    found = Checkpoints(folder, "tiny", 2, Terminal(quiet=True)).newest()
    assert found is not None
    assert found.step == STEPS
    weights = {name: torch.empty(each.shape) for name, each in found.stored()["model"].items()}
    found.read({"model": weights})
    return weights


def test_validation_items_are_always_the_same():
    ids = [f"item-{number}" for number in range(50)]
    assert choose_items(ids, 10) == choose_items(ids, 10)
    assert len(set(choose_items(ids, 10))) == 10
    assert choose_items(ids, 99) == ids

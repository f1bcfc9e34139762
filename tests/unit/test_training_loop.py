"""The loop on a tiny model: it learns, it stops cleanly, it continues bit for bit, it notices numbers gone bad."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from mlim.catalog.items import ItemStore
from mlim.console import Terminal
from mlim.data.collate import ItemCollator
from mlim.data.loader import BatchLoader
from mlim.data.tokenize import TextTokenizer
from mlim.errors import MlimError
from mlim.models.hub import build_mlim
from mlim.objectives import PretrainObjective
from mlim.recipe import Pretraining, Recipe
from mlim.training.checkpoint import Checkpoints, model_tensors
from mlim.training.held_out import VALIDATION_SEED, HeldOutLosses, choose_items
from mlim.training.interrupt import Interrupted, stop_on_signals
from mlim.training.loop import LOG_EVERY, Trainer, TrainResult, Validation

EVERYTHING = Pretraining(losses=("mlm", "recon", "itm"), masking="mam")
STEPS = 24
CPU = torch.device("cpu")


class Kept:
    """A metric sink that keeps what it gets."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.logged.append((step, dict(values)))


class Disturbed(PretrainObjective):
    """Something happens while a micro-batch is prepared."""

    at, what = -1, staticmethod(lambda: None)

    def prepare(self, batch, draw, mode=None):
        if draw == self.at:
            self.what()
        return super().prepare(batch, draw, mode)


class Room:
    """A training on eight items, assembled anew for every start."""

    def __init__(self, recipe: Recipe, store: ItemStore, folder: Path) -> None:
        self.recipe, self.store, self.folder = recipe, store, folder
        self.sink = Kept()

    def start(
        self, at: int = -1, what: Any = None, validate: Any = None
    ) -> tuple[dict[str, torch.Tensor], TrainResult]:
        recipe, ids = self.recipe, self.store.ids[:16]
        tokenizer = TextTokenizer.learn((self.store.text(item) for item in ids), recipe.text.vocabulary_size)
        model = build_mlim(recipe, tokenizer, seed=0)
        objective = Disturbed(model, recipe, EVERYTHING, seed=0)
        objective.at, objective.what = at, what
        collate = ItemCollator(self.store, tokenizer, recipe.text.max_tokens)
        judge = PretrainObjective(model, recipe, EVERYTHING, VALIDATION_SEED)
        config = recipe.pretrain
        held_out = HeldOutLosses(judge, collate, self.store.ids[16:24], config.batch_size, CPU)
        checkpoints = Checkpoints(self.folder, "tiny", config.checkpoint.keep, Terminal(quiet=True))
        loader = BatchLoader(ids, config.batch_size, 0, collate)
        trainer = Trainer(objective, loader, config, 0, validate or held_out, checkpoints, self.sink, CPU)
        result = trainer.run(Terminal(quiet=True), "tiny")
        return {name: value.clone() for name, value in model_tensors(model).items()}, result


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    checkpoint = tiny_recipe.pretrain.checkpoint.model_copy(update={"every_steps": 5})
    changes = {"steps": STEPS, "batch_size": 4, "accumulate": 2, "validate_every": 8, "checkpoint": checkpoint}
    return tiny_recipe.model_copy(update={"pretrain": tiny_recipe.pretrain.model_copy(update=changes)})


@pytest.fixture(scope="module")
def store(tiny_workspace) -> ItemStore:
    return ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "samples_per_second"} for row in history]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def stop_me() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise RuntimeError("pulled the plug")


@pytest.mark.parametrize(("what", "raised"), [(stop_me, Interrupted), (crash, RuntimeError)])
def test_a_stopped_training_continues_to_the_same_weights_and_losses(recipe, store, tmp_path, what, raised):
    through, expected = Room(recipe, store, tmp_path / "through").start()
    room = Room(recipe, store, tmp_path / "stopped")
    with pytest.raises(raised):
        room.start(at=27, what=what)
    again = Room(recipe, store, tmp_path / "stopped")
    weights, result = again.start()
    assert_same(weights, through)
    assert timeless(result.history) == timeless(expected.history)
    assert result.validation == expected.validation
    assert result.samples == STEPS * 4 * 2


def test_after_a_stop_the_new_run_shows_the_whole_curve(recipe, store, tmp_path):
    room = Room(recipe, store, tmp_path)
    with pytest.raises(Interrupted, match=f"SIGTERM after step 14 of {STEPS}"):
        room.start(at=27, what=stop_me)
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


def test_a_finished_training_is_not_repeated(recipe, store, tmp_path):
    first, _ = Room(recipe, store, tmp_path).start()
    second, _ = Room(recipe, store, tmp_path).start(at=0, what=crash)
    assert_same(first, second)


def test_losses_that_explode_name_the_step_and_the_items(recipe, store, tmp_path):
    optim = recipe.pretrain.optim.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0, "clip_norm": 0.0})
    hot = recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"optim": optim})})
    with pytest.raises(MlimError, match=r"step [234]: .* not a finite number; the batch held item-0\d\d, "):
        Room(hot, store, tmp_path).start()
    saved = [path.name for path in tmp_path.glob("step-*")]
    assert saved == []  # what is not finite never becomes a checkpoint


def test_a_tiny_model_learns_a_handful_of_items(recipe, store, tmp_path):
    optim = recipe.pretrain.optim.model_copy(update={"learning_rate": 5e-3, "schedule": "constant"})
    changes = {"steps": 120, "accumulate": 1, "batch_size": 8, "optim": optim, "validate_every": 120}
    eager = recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update=changes)})
    _, result = Room(eager, store, tmp_path).start()

    def light(name: str) -> list[float]:
        return [row[name] for row in result.history if row["kind"] == "train" and row["mode"] == "light"]

    assert light("mlm")[-1] < 0.4 * light("mlm")[0]
    assert light("recon")[-1] < 0.25 * light("recon")[0]


def test_every_loss_is_logged_by_mode_and_never_from_every_step(recipe, store, tmp_path):
    room = Room(recipe, store, tmp_path)
    _, result = room.start()
    training = [values for _, values in room.sink.logged if "train/total" in values]
    assert len(training) == -(-STEPS // LOG_EVERY)
    assert {"learning_rate", "samples_per_second", "grad_norm", "train/recon"} <= training[0].keys()
    modes = {row["mode"] for row in result.history if row["kind"] == "validation"}
    assert modes == {"heavy_image", "heavy_text", "light"}
    assert not any("mlm" in row for row in result.history if row["mode"] == "heavy_image")


def test_validation_repeats_exactly_and_leaves_training_as_it_was(recipe, store, tmp_path):
    def never() -> Validation:
        return Validation({}, {"total": 0.0})

    often = recipe.model_copy(update={"pretrain": recipe.pretrain.model_copy(update={"validate_every": 1})})
    assert_same(
        Room(often, store, tmp_path / "a").start()[0], Room(often, store, tmp_path / "b").start(validate=never)[0]
    )


def test_the_best_model_by_validation_wins_and_the_later_one_on_a_tie(recipe, store, tmp_path):
    values = iter([0.5, 0.9, 0.9])
    _, result = Room(recipe, store, tmp_path).start(validate=lambda: Validation({}, {}, next(values)))
    assert (result.best_step, result.best_value) == (24, 0.9)
    values = iter([0.5, 0.9, 0.1])
    weights, result = Room(recipe, store, tmp_path / "b").start(validate=lambda: Validation({}, {}, next(values)))
    assert (result.best_step, result.best_value) == (16, 0.9)
    assert any(not torch.equal(weights[name], value) for name, value in _last_saved(tmp_path / "b").items())


def _last_saved(folder: Path) -> Mapping[str, torch.Tensor]:
    found = Checkpoints(folder, "tiny", 2, Terminal(quiet=True)).newest()
    assert found is not None
    assert found.step == STEPS
    return found.tensors["model"]


def test_validation_items_are_always_the_same():
    ids = [f"item-{number}" for number in range(50)]
    assert choose_items(ids, 10) == choose_items(ids, 10)
    assert len(set(choose_items(ids, 10))) == 10
    assert choose_items(ids, 99) == ids

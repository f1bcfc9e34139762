"""`compute.shard`: no rank ever holds the whole model, its moments or its checkpoint, and nothing is lost by a kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_room import balanced, changed, for_the_room

from mlim.files import read_json
from mlim.recipe import Recipe

TESTS = Path(__file__).parents[1]
FLOAT_BYTES = 4
MOST = 0.6  # of what one process needs, for each of two ranks
SLACK = 20e6  # bytes of the allocator and of the batches
pytestmark = pytest.mark.integration


@pytest.fixture
def room(tiny_recipe, tiny_workspace, tmp_path):
    """Runs shard_room.py on one or two processes in a named folder; gives that folder and what torchrun said."""

    def run(recipe: Recipe, name: str, processes: int, *how: object) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        given = tmp_path / "recipe.yaml"
        given.write_text(recipe.to_yaml(), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launcher, TESTS / "shard_room.py", tiny_workspace.root, given, folder, *how]
        quickly_returned = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # freed memory is not kept
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [*map(str, command)], env=environment | quickly_returned, capture_output=True, text=True, check=False
        )
        return folder, done

    return run


@pytest.fixture
def recipe(tiny_recipe) -> Recipe:
    """In shards, balanced, without dropout, which every rank draws for itself."""
    model = tiny_recipe.model.model_copy(update={"dropout": 0.0})
    compute = tiny_recipe.compute.model_copy(update={"shard": True})
    return balanced(for_the_room(tiny_recipe)).model_copy(update={"model": model, "compute": compute})


def seen(folder: Path, rank: int = 0) -> dict:
    return read_json(folder / f"rank-{rank}.json")


def finished(done: tuple[Path, "subprocess.CompletedProcess[str]"]) -> Path:
    folder, process = done
    assert process.returncode == 0, process.stderr
    return folder


def assert_same_losses(one: Path, other: Path) -> None:
    assert len(seen(one)["losses"]) == len(seen(other)["losses"]) > 0
    for ours, theirs in zip(seen(one)["losses"], seen(other)["losses"], strict=True):
        assert ours[:3] == theirs[:3]
        assert ours[3] == pytest.approx(theirs[3], abs=1e-5)


def test_no_rank_ever_holds_more_than_its_share(room, recipe, tmp_path):
    """Point 16: building, training and saving a model whose weights dominate, on one process and on two ranks."""
    shape = {"hidden_size": 512, "intermediate_size": 2048, "layers": 8, "heads": 8}
    large = recipe.model_copy(update={"model": recipe.model.model_copy(update=shape)})
    large = changed(large, steps=2, batch_size=2, accumulate=1, validate_every=2)
    warm = tmp_path / "warm.yaml"
    warm.write_text(recipe.to_yaml(), encoding="utf-8")
    alone = seen(finished(room(large, "alone", 1, "measure", warm)))
    folder = finished(room(large, "together", 2, "measure", warm))
    largest = shape["hidden_size"] * shape["intermediate_size"] * FLOAT_BYTES
    for rank in (0, 1):
        found = seen(folder, rank)
        assert found["bytes"] == alone["bytes"]
        assert found["own_bytes"] < MOST * alone["bytes"]
        assert found["building"] < found["own_bytes"] + largest + SLACK < alone["building"]
        assert found["most"] < MOST * alone["most"]
        written = [*folder.glob(f"checkpoints/step-*/shard-0000{rank + 1}-*.safetensors")]
        assert sum(file.stat().st_size for file in written) < MOST * 3 * alone["bytes"]  # weights and two moments
    assert not [file for file in folder.rglob("*") if file.suffix in (".metadata", ".pt", ".distcp", ".pkl")]


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_sharded_training_goes_on_with_another_number_of_ranks(room, recipe, first, then):
    """Point 16: parts written by two ranks are read by one, and the other way round."""
    undisturbed = finished(room(recipe, "undisturbed", 1))
    folder, done = room(recipe, "moved", first, "crash", 13)
    assert "pulled the plug" in done.stderr
    assert read_json(folder / "checkpoints" / "step-00000010" / "state.json")["ranks"] == first
    assert_same_losses(finished(room(recipe, "moved", then)), undisturbed)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_kill_while_parts_are_written_leaves_the_checkpoint_before(room, recipe, rank):
    """Point 16: a checkpoint is there when all ranks have written theirs, or not at all."""
    folder, done = room(recipe, "killed", 2, "kill", rank, 1)
    assert done.returncode != 0
    assert [path.name for path in folder.glob("checkpoints/step-*")] == ["step-00000005"]
    assert_same_losses(finished(room(recipe, "killed", 2)), finished(room(recipe, "undisturbed", 1)))

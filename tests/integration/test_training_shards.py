"""`compute.shard`: no rank ever holds the whole model, its moments or its checkpoint, and nothing is lost by a kill."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from training_room import balanced, changed, for_the_room

from mlim.files import read_json
from mlim.recipe import Recipe
from tests.integration.conftest import free_port

TESTS = Path(__file__).parents[1]
FLOAT_BYTES = 4
MOST = 0.6  # of what one process needs, for each of two ranks
SLACK = 20e6  # bytes of the allocator and of the batches
PAUSE = 0.05  # seconds between two looks at the ranks
pytestmark = pytest.mark.integration


class Run(NamedTuple):
    """A training that has ended."""

    folder: Path
    code: int
    said: str


@pytest.fixture(scope="module")
def room(tiny_workspace):
    """Runs shard_room.py on one or two ranks in a folder; gives that folder, the exit code and what they said.

    Without torchrun, which takes as long to start as a rank; test_training_ranks.py has it.
    """

    def run(recipe: Recipe, folder: Path, size: int, *how: object) -> Run:
        folder.mkdir(exist_ok=True)
        given = folder / "recipe.yaml"
        given.write_text(recipe.to_yaml(), encoding="utf-8")
        command = [*map(str, [sys.executable, TESTS / "shard_room.py", tiny_workspace.root, given, folder, *how])]
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
        quickly_returned = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # freed memory is not kept
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        environment |= meeting | quickly_returned
        with (folder / "said.txt").open("w") as said:
            places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
            code = end_of([subprocess.Popen(command, env=environment | place, stderr=said) for place in places])
        return Run(folder, code, (folder / "said.txt").read_text())

    return run


def end_of(ranks: "list[subprocess.Popen[bytes]]") -> int:
    """The exit code of the first that fails, when the others are ended; 0 when all end well."""
    while not any(codes := [rank.poll() for rank in ranks]) and None in codes:
        time.sleep(PAUSE)
    for rank in ranks:
        rank.kill()
        rank.wait()
    return next(filter(None, codes), 0)


@pytest.fixture(scope="module")
def recipe(tiny_recipe) -> Recipe:
    """In shards, balanced, without dropout, which every rank draws for itself."""
    model = tiny_recipe.model.model_copy(update={"dropout": 0.0})
    compute = tiny_recipe.compute.model_copy(update={"shard": True})
    return balanced(for_the_room(tiny_recipe)).model_copy(update={"model": model, "compute": compute})


def seen(folder: Path, rank: int = 0) -> dict:
    return read_json(folder / f"rank-{rank}.json")


def finished(run: Run) -> Path:
    assert run.code == 0, run.said
    return run.folder


@pytest.fixture(scope="module")
def undisturbed(room, recipe, tmp_path_factory) -> Path:
    """The folder of a training on one process."""
    return finished(room(recipe, tmp_path_factory.mktemp("undisturbed"), 1))


def assert_same_losses(one: Path, other: Path) -> None:
    assert len(seen(one)["losses"]) == len(seen(other)["losses"]) > 0
    for ours, theirs in zip(seen(one)["losses"], seen(other)["losses"], strict=True):
        assert ours[:3] == theirs[:3]
        assert ours[3] == pytest.approx(theirs[3], abs=1e-5)


def test_no_rank_ever_holds_more_than_its_share(room, recipe, tmp_path):
    """Point 16: building, training and saving a model whose weights dominate, on one process and on two ranks."""
    shape = {"hidden_size": 512, "intermediate_size": 2048, "layers": 6, "heads": 8}
    large = recipe.model_copy(update={"model": recipe.model.model_copy(update=shape)})
    large = changed(large, steps=2, batch_size=2, accumulate=1, validate_every=2)
    warm = tmp_path / "warm.yaml"
    warm.write_text(recipe.to_yaml(), encoding="utf-8")
    alone = seen(finished(room(large, tmp_path / "alone", 1, "measure", warm)))
    folder = finished(room(large, tmp_path / "together", 2, "measure", warm))
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


@pytest.mark.parametrize(("first", "then"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_sharded_training_goes_on_with_another_number_of_ranks(room, recipe, undisturbed, tmp_path, first, then):
    """Point 16: parts written by two ranks are read by one, and the other way round."""
    folder, _, said = room(recipe, tmp_path / "moved", first, "crash", 13)
    assert "pulled the plug" in said
    assert read_json(folder / "checkpoints" / "step-00000010" / "state.json")["ranks"] == first
    assert_same_losses(finished(room(recipe, folder, then)), undisturbed)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_kill_while_parts_are_written_leaves_the_checkpoint_before(room, recipe, undisturbed, tmp_path, rank):
    """Point 16: a checkpoint is there when all ranks have written theirs, or not at all."""
    folder, code, _ = room(recipe, tmp_path / "killed", 2, "kill", rank, 1)
    assert code != 0
    assert [path.name for path in folder.glob("checkpoints/step-*")] == ["step-00000005"]
    assert_same_losses(finished(room(recipe, folder, 2)), undisturbed)

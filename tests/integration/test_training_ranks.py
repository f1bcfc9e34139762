"""Two processes train one model: the same losses as one, one writer, and a worker that dies costs nothing."""

import shutil
import signal
from pathlib import Path

import pandas as pd
import psutil
import pytest
from commands import finish, run, start, wait_for_checkpoint
from safetensors.torch import load_file

from mlim.files import read_json
from mlim.recipe import BalanceConfig, Recipe
from mlim.training.metric_logger import TIMED
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

NAME, ROW = "recon-itm-mlm-mam", "no-pretraining"
LONG_DRIFT = 1e-3  # of weights over hundreds of steps


@pytest.fixture
def work(tiny_workspace, tiny_recipe, tmp_path):
    """A maker of work folders with the same data; balanced, without dropout, which every process draws for itself."""

    def make(name: str, **changes: object) -> Workspace:
        root = tmp_path / name
        shutil.copytree(tiny_workspace.root, root)
        model = tiny_recipe.model.model_copy(update={"dropout": 0.0})
        stages = {
            stage: getattr(tiny_recipe, stage).model_copy(
                update={"steps": 12, "validate_every": 6, "accumulate": 2, **changes}
            )
            for stage in ("pretrain", "finetune")
        }
        balance = BalanceConfig(every=4, smoothing=0.5, most=100)
        stages["pretrain"] = stages["pretrain"].model_copy(update={"balance": balance})
        stages["finetune"] = stages["finetune"].model_copy(update={"head_dropout": 0.0})
        recipe: Recipe = tiny_recipe.model_copy(update={"model": model, **stages})
        (root / "given.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        return Workspace(root)

    return make


def assert_same_training(one: Path, other: Path, drift: float = 1e-4) -> None:
    """Losses to 1e-5 in every reading; weights drift a little where gradients are rounding alone (keys' biases)."""
    losses = [pd.read_csv(folder / "history.csv").drop(columns=list(TIMED), errors="ignore") for folder in (one, other)]
    pd.testing.assert_frame_equal(*losses, check_exact=False, rtol=0, atol=1e-5)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < drift


def test_two_processes_give_the_losses_of_one(work):
    """Whether torchrun starts them or, where the recipe wants several, mlim does."""
    alone, together = work("alone"), work("together")
    said = [
        run(together, "pretrain", NAME, processes=2),
        run(together, "finetune", ROW, "--set", "compute.processes=2"),  # mlim starts the processes itself
    ]
    for words in said:
        assert words.count("parameters,") == 1  # one of them talks
        assert "Warning" not in words  # of torch; that a short training beats nothing is said in a warning of ours
    run(alone, "pretrain", NAME)
    run(alone, "finetune", ROW)
    assert_same_training(alone.pretrained(NAME, 0), together.pretrained(NAME, 0))
    assert_same_training(alone.finetuned(ROW, 0), together.finetuned(ROW, 0))
    assert read_json(together.finetuned(ROW, 0) / "summary.json")["processes"] == 2


@pytest.mark.slow
def test_shards_give_the_losses_of_one_process(work):
    """FSDP2 instead of DDP: weights, gradients and moments are dealt out."""
    alone, sharded = work("alone"), work("sharded")
    for words in (("pretrain", NAME), ("finetune", ROW)):
        run(alone, *words)
        run(sharded, *words, "--set", "compute.shard=true", processes=2)
    assert_same_training(alone.pretrained(NAME, 0), sharded.pretrained(NAME, 0))
    assert_same_training(alone.finetuned(ROW, 0), sharded.finetuned(ROW, 0))


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(work):
    settings = {"steps": 300, "validate_every": 100}
    alone, moved = work("alone", **settings), work("moved", **settings)
    run(alone, "pretrain", NAME)
    process = start(moved, "pretrain", NAME, processes=2)
    wait_for_checkpoint(process, moved.checkpoints("pretrain", NAME, 0), 20)
    process.send_signal(signal.SIGTERM)
    finish(process)
    assert not moved.pretrained(NAME, 0).exists()
    assert "continuing from the checkpoint" in run(moved, "pretrain", NAME)
    assert_same_training(alone.pretrained(NAME, 0), moved.pretrained(NAME, 0), LONG_DRIFT)


@pytest.mark.slow
def test_a_process_that_is_killed_restarts_the_training_where_it_was(work):
    settings = {"steps": 160, "validate_every": 40}
    alone, killed = work("alone", **settings), work("killed", **settings)
    run(alone, "pretrain", NAME)
    process = start(killed, "pretrain", NAME, processes=2, restarts=1)
    wait_for_checkpoint(process, killed.checkpoints("pretrain", NAME, 0), 20)
    worker = psutil.Process(process.pid).children()[-1]
    worker.kill()
    code, said = finish(process)
    assert code == 0, said
    assert "continuing from the checkpoint" in said
    assert_same_training(alone.pretrained(NAME, 0), killed.pretrained(NAME, 0), LONG_DRIFT)


@pytest.mark.slow
def test_a_batch_that_cannot_be_dealt_is_refused(work):
    workspace = work("odd", batch_size=4)
    code, said = finish(start(workspace, "pretrain", NAME, processes=3))
    assert code != 0
    assert "batch_size 4 cannot be divided evenly among 3 processes" in said

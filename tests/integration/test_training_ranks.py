"""Two processes train one model: the same losses as one, one writer, and a worker that dies costs nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file

from mlim.files import read_json
from mlim.recipe import Recipe
from mlim.training.journal import TIMED
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

NAME, ROW = "recon-itm-mlm-mam", "no-pretraining"
PATIENCE = 120.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def work(tiny_workspace, tiny_recipe, tmp_path):
    """A maker of work folders with the same data; without dropout, which every process draws for itself."""

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
        stages["finetune"] = stages["finetune"].model_copy(update={"head_dropout": 0.0})
        recipe: Recipe = tiny_recipe.model_copy(update={"model": model, **stages})
        (root / "given.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        return Workspace(root)

    return make


def command(workspace: Workspace, processes: int, *words: str, restarts: int = 0) -> list[str]:
    """What a person types: `mlim ...`, or the same under torchrun."""
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        f"--max-restarts={restarts}",
    ]
    options = ["--recipe", str(workspace.root / "given.yaml"), "--work", str(workspace.root)]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "mlim", *words, *options]


def run(workspace: Workspace, processes: int, *words: str) -> str:
    done = subprocess.run(
        command(workspace, processes, *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def assert_same_training(one: Path, other: Path) -> None:
    """Losses to 1e-5 in every reading; weights drift a little where gradients are rounding alone (keys' biases)."""
    losses = [pd.read_csv(folder / "history.csv").drop(columns=list(TIMED)) for folder in (one, other)]
    pd.testing.assert_frame_equal(*losses, check_exact=False, rtol=0, atol=1e-5)
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-3


def test_two_processes_give_the_losses_of_one(work):
    alone, together = work("alone"), work("together")
    for words in (("pretrain", NAME), ("finetune", ROW)):
        run(alone, 1, *words)
        said = run(together, 2, *words)
        assert said.count("parameters,") == 1  # one of them talks
        assert "arning" not in said
    assert_same_training(alone.pretrained(NAME, 0), together.pretrained(NAME, 0))
    assert_same_training(alone.finetuned(ROW, 0), together.finetuned(ROW, 0))


@pytest.mark.slow
def test_shards_give_the_losses_of_one_process(work):
    """FSDP2 instead of DDP: weights, gradients and moments are dealt out."""
    alone, sharded = work("alone"), work("sharded")
    for words in (("pretrain", NAME), ("finetune", ROW)):
        run(alone, 1, *words)
        run(sharded, 2, *words, "--set", "compute.shard=true")
    assert_same_training(alone.pretrained(NAME, 0), sharded.pretrained(NAME, 0))
    assert_same_training(alone.finetuned(ROW, 0), sharded.finetuned(ROW, 0))


def wait_for_checkpoint(process: "subprocess.Popen[str]", folder: Path, step: int) -> None:
    until = time.monotonic() + PATIENCE
    while not any(int(path.name.removeprefix("step-")) >= step for path in folder.glob("step-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.slow
def test_a_training_goes_on_with_another_number_of_processes(work):
    settings = {"steps": 300, "validate_every": 100}
    alone, moved = work("alone", **settings), work("moved", **settings)
    run(alone, 1, "pretrain", NAME)
    process = subprocess.Popen(
        command(moved, 2, "pretrain", NAME),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    wait_for_checkpoint(process, moved.checkpoints("pretrain", NAME, 0), 20)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert not moved.pretrained(NAME, 0).exists()
    assert "continuing from the checkpoint" in run(moved, 1, "pretrain", NAME)
    assert_same_training(alone.pretrained(NAME, 0), moved.pretrained(NAME, 0))


@pytest.mark.slow
def test_a_process_that_is_killed_restarts_the_training_where_it_was(work):
    settings = {"steps": 300, "validate_every": 100}
    alone, killed = work("alone", **settings), work("killed", **settings)
    run(alone, 1, "pretrain", NAME)
    process = subprocess.Popen(
        command(killed, 2, "pretrain", NAME, restarts=1),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    wait_for_checkpoint(process, killed.checkpoints("pretrain", NAME, 0), 20)
    worker = psutil.Process(process.pid).children()[-1]
    worker.kill()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "continuing from the checkpoint" in said
    assert_same_training(alone.pretrained(NAME, 0), killed.pretrained(NAME, 0))


def test_a_batch_that_cannot_be_dealt_is_refused(work):
    workspace = work("odd", batch_size=5)
    done = subprocess.run(command(workspace, 2, "pretrain", NAME), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode != 0
    assert "batch_size 5 cannot be dealt evenly to 2 processes" in done.stdout + done.stderr


def test_mlim_starts_as_many_processes_as_the_recipe_wants(work):
    workspace = work("launched")
    said = run(workspace, 1, "pretrain", NAME, "--set", "compute.processes=2")
    assert said.count("parameters,") == 1
    assert read_json(workspace.pretrained(NAME, 0) / "summary.json")["processes"] == 2

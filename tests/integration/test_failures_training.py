"""A training that is told to stop again and again still saves, and one that is finished is not trained anew."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlim.console import Terminal
from mlim.recipe import Recipe, load_recipe
from mlim.steps.pretrain import pretrain
from mlim.tracking import client
from mlim.workspace import Workspace
from tests.reaper import of_this_run

pytestmark = pytest.mark.integration

NAME = "recon-mlm-mam"
WAIT_SECONDS = 180
LONG = {"steps": 1_000_000, "validate_every": 1_000_000}


def test_signals_while_a_training_saves_do_not_cut_it_off(
    tiny_recipe: Recipe, own_workspace: Workspace, tmp_path: Path
) -> None:
    """Prefect, DVC and the kernel each send a SIGTERM when a flow ends, within moments of each other."""
    checkpoint = tiny_recipe.pretrain.checkpoint.model_copy(update={"every_steps": 1_000_000})
    section = tiny_recipe.pretrain.model_copy(update={**LONG, "checkpoint": checkpoint})
    recipe = tiny_recipe.model_copy(update={"pretrain": section})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "mlim", "pretrain", "--recipe", str(tmp_path / "recipe.yaml")]
    with log.open("w") as target:
        process = subprocess.Popen([*command, "--work", str(own_workspace.root)], stderr=target, stdout=target)
    deadline = time.monotonic() + WAIT_SECONDS
    while not re.search(rf"pretrain {NAME} \d", log.read_text()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    assert process.wait() == 1, log.read_text()
    assert "stopped by SIGTERM after step" in log.read_text()
    assert len(list(own_workspace.checkpoints("pretrain", NAME, 0).glob("step-*/manifest.json"))) == 1
    runs = client(recipe.tracking).search_runs(["1"], max_results=2)
    assert [run.info.status for run in runs] == ["KILLED", "KILLED"]
    assert not [each for each in of_this_run("cwd") if each.info["cwd"] == str(own_workspace.root)]


def test_a_finished_training_is_kept_where_nothing_changed(
    tiny_recipe: Recipe, own_workspace: Workspace, quiet: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def train(recipe: Recipe = tiny_recipe) -> str:
        return str(pretrain(recipe, own_workspace, quiet, NAME, 0, "keep")["run_id"])

    first = train()
    assert train() == first
    other = tiny_recipe.model_copy(update={"pretrain": tiny_recipe.pretrain.model_copy(update={"steps": 7})})
    second = train(other)
    assert second != first
    assert train(other) == second
    elsewhere = load_recipe("demo").tracking.model_copy(update={"uri": f"sqlite:///{tmp_path / 'other.db'}"})
    third = train(other.model_copy(update={"tracking": elsewhere}))
    assert third != second  # its run is to be in the store that is asked for
    (changed := tmp_path / "mlim").mkdir()
    (changed / "new.py").write_text("")
    monkeypatch.setattr("mlim.steps.trained.PACKAGE", changed)
    assert train(other.model_copy(update={"tracking": elsewhere})) != third

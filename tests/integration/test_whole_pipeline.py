"""A whole pipeline, from a catalog to a registered model, that is killed anywhere, or whose disk is full anywhere."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlim.recipe import load_recipe
from tests.conftest import TINY_SETTINGS

pytestmark = [pytest.mark.integration, pytest.mark.slow]
ITEMS, KILLS = 120, 100
SCRIPT = Path(__file__).parents[1] / "whole_pipeline.py"
Lines = list[dict[str, Any]]


@pytest.fixture
def pipelines(tmp_path: Path) -> Callable[..., Lines]:
    """Runs whole_pipeline.py on a small embedded catalog."""
    recipe, catalog = tmp_path / "recipe.yaml", tmp_path / "catalog"
    recipe.write_text(load_recipe("demo", TINY_SETTINGS).to_yaml(), encoding="utf-8")
    drawn = ["catalog", "synthesize", "--items", str(ITEMS), "--out", str(catalog), "--quiet"]
    subprocess.run([sys.executable, "-m", "mlim", *drawn], check=True)

    def run(*how: object) -> Lines:
        command = [sys.executable, SCRIPT, catalog / "catalog.yaml", recipe, tmp_path / "room", *how]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_pipeline_killed_anywhere_registers_the_same_model(pipelines: Callable[..., Lines]) -> None:
    undisturbed, *killed = pipelines("kills", KILLS, 1)
    assert len(killed) == KILLS
    for number, outcome in enumerate(killed):
        where = outcome.pop("killed")
        assert outcome == {key: value for key, value in undisturbed.items() if key != "killed"}, (number, where)


def test_a_full_disk_leaves_results_as_they_were_and_says_what_to_do(pipelines: Callable[..., Lines]) -> None:
    """One sentence, no half-written result, and the same command ends well when there is room."""
    tried = pipelines("disk", 100, 2_000, 20_000)
    failed = [each for each in tried if each["code"]]
    assert {each["stage"].partition("@")[0] for each in failed} >= {
        *("ingest", "validate", "pairs", "pretrain", "finetune", "stack", "evaluate", "register")
    }
    for each in failed:
        assert each["code"] == 1, each
        assert each["said"].count("error:") == 1, each
        assert any(advice in each["said"] for advice in ("make room on the disk", "free space")), each
        assert each["same"], each

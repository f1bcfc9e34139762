"""kill -9 in the middle of a training, anywhere: what comes out in the end is bit for bit the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_room import for_the_room

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.integration


@pytest.fixture
def outcomes(tiny_recipe, tiny_workspace, tmp_path):
    """Runs kill_points.py: what an undisturbed training gave, and what the killed ones did."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(for_the_room(tiny_recipe).to_yaml(), encoding="utf-8")

    def run(*how: object) -> tuple[dict, list[dict]]:
        command = [sys.executable, TESTS / "kill_points.py", tiny_workspace.root, recipe, tmp_path / "training", *how]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        undisturbed, *killed = json.loads(done.stdout)
        return undisturbed, killed

    return run


def assert_all_the_same(undisturbed: dict, killed: list[dict]) -> None:
    assert not undisturbed["killed"]
    for number, outcome in enumerate(killed):
        for what in ("weights", "losses", "items"):
            assert outcome[what] == undisturbed[what], (number, what)


def test_a_training_killed_anywhere_continues_to_the_same_weights(outcomes):
    undisturbed, killed = outcomes("steps", 5, 0)
    assert len(killed) == 5
    assert any(outcome["killed"] for outcome in killed)
    assert_all_the_same(undisturbed, killed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["times", "steps"])
def test_a_hundred_kills(outcomes, kind):
    undisturbed, killed = outcomes(kind, 50, 1)
    assert sum(outcome["killed"] for outcome in killed) > 40
    assert_all_the_same(undisturbed, killed)


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_every_file_of_a_checkpoint_costs_nothing_but_time(outcomes, every):
    undisturbed, killed = outcomes("saves", every)
    assert sum(outcome["killed"] for outcome in killed) > 10 / every
    assert not killed[-1]["killed"]  # every file was met
    assert_all_the_same(undisturbed, killed)

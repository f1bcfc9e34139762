"""A whole pipeline, from a catalog to a registered model, that is killed anywhere, or whose disk is full anywhere."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlim.recipe import load_recipe
from tests.commands import PRIVATE_MOUNTS
from tests.conftest import TINY_SETTINGS

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(5400)]
ITEMS, KILLS = 120, 100
TIMED = {"killed", "seconds"}  # what differs between two runs
DISK, LEFT = "48m", [number << 10 for number in (0, 64, 1024, 4096)]
SCRIPT = Path(__file__).parents[1] / "whole_pipeline.py"
Lines = list[dict[str, Any]]


@pytest.fixture
def pipelines(tmp_path: Path) -> Callable[..., Lines]:
    """Runs whole_pipeline.py on a small embedded catalog, in a folder that may be a disk of its own."""
    recipe, catalog = tmp_path / "recipe.yaml", tmp_path / "catalog"
    recipe.write_text(load_recipe("demo", TINY_SETTINGS).to_yaml(), encoding="utf-8")
    drawn = ["catalog", "synthesize", "--items", str(ITEMS), "--out", str(catalog), "--quiet"]
    subprocess.run([sys.executable, "-m", "mlim", *drawn], check=True)

    def run(*how: object, within: Sequence[object] = ()) -> Lines:
        command = [*within, sys.executable, SCRIPT, catalog / "catalog.yaml", recipe, tmp_path / "room", *how]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_pipeline_killed_anywhere_registers_the_same_model(pipelines: Callable[..., Lines]) -> None:
    """One version, and nothing half-written is left."""
    undisturbed, *disturbed = pipelines("kills", KILLS, 1)
    hit = Counter(command for outcome in disturbed for command in outcome["killed"])
    print(f"undisturbed {undisturbed['seconds']} s; kills by command: {dict(hit)}")
    assert hit.total() == KILLS
    expected = {key: value for key, value in undisturbed.items() if key not in TIMED}
    assert expected["half-written"] == []
    for number, outcome in enumerate(disturbed):
        found = {key: value for key, value in outcome.items() if key not in TIMED}
        assert found == expected, (number, outcome["killed"])


def refused(tried: Lines) -> set[str]:
    """The commands that failed, all of them with one sentence that says what to do, and left results as they were."""
    failed = [each for each in tried if each["code"]]
    for each in failed:
        assert each["code"] == 1, each
        assert each["said"].count("error:") == 1, each
        assert "Traceback" not in each["said"], each
        assert any(advice in each["said"] for advice in ("make room on the disk", "free space")), each
        assert each["same"], each
    return {each["stage"].partition("@")[0] for each in failed}


def test_files_that_cannot_grow_leave_results_as_they_were(pipelines: Callable[..., Lines]) -> None:
    """And the same command ends well when there is room."""
    assert refused(pipelines("files", 100, 2_000, 20_000)) >= {
        *("ingest", "validate", "pairs", "pretrain", "finetune", "stack", "evaluate", "register", "report")
    }


def test_a_full_disk_leaves_results_and_versions_as_they_were(pipelines: Callable[..., Lines], tmp_path: Path) -> None:
    """A disk of its own, of which ever more is left: registration and report stop at ever later places."""
    (tmp_path / "room").mkdir()
    mounted = [*PRIVATE_MOUNTS, 'mount -t tmpfs -o size=$2 none "$1" && shift 2 && exec "$@"', "sh"]
    if subprocess.run([*PRIVATE_MOUNTS, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode:
        pytest.skip("no disk of a test's own can be mounted here (unprivileged user namespaces)")
    tried = pipelines("disk", *LEFT, within=[*mounted, tmp_path / "room", DISK])
    assert refused(tried) == {"register", "report"}
    for each in tried:
        assert each["whole"], each
    print("\n".join(f"{each['stage']} {each['limit']}: {each['said']}" for each in tried))

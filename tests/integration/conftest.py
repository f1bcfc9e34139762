"""A copy of the project with a small embedded catalog and a tiny recipe, run once for all integration tests."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.chromium import find_browser

ROOT = Path(__file__).parents[2]
COPIED = ("mlim", "flows", "great_expectations", ".dvc", ".dvcignore", ".gitignore", "prefect.yaml")
ITEMS = 240
RUN_SECONDS = 900
TINY = {
    "image": {"size": 32, "grid": 4},
    "text": {"max_tokens": 24, "vocabulary_size": 400},
    "model": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64},
    "pretrain": {"steps": 4, "batch_size": 8, "validate_every": 4, "validation_items": 16},
    "finetune": {"steps": 4, "batch_size": 8, "validate_every": 4},
    "evaluate": {"bootstrap_samples": 50},
    "probe": {"probabilities": [0.2, 0.8], "items": 16, "reconstructions": 2},
}

# One row of each kind that dvc.yaml knows, and a text-only one: every further one repeats the same commands.
ROWS = ("recon-mlm-mam", "recon-mlm-naive", "no-mdo", "text-only", "no-pretraining")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**extra: str) -> dict[str, str]:
    """Ours, with this interpreter's commands first on the path, telemetry off, and no server inherited."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    quiet = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    inherited = {
        key: value for key, value in os.environ.items() if key not in {"PREFECT_API_URL", "MLFLOW_TRACKING_URI"}
    }
    return {**inherited, **quiet, "PATH": path, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **extra}


def run_in(
    folder: Path, command: Sequence[str], check: bool = True, **extra: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a folder; its output is in the failure message when it fails."""
    done = subprocess.run(
        command, cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    if check:
        assert done.returncode == 0, f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tiny_values() -> dict[str, Any]:
    """The demo recipe with every size turned down and a few of its rows."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["rows"] = {name: values["rows"][name] for name in ROWS}
    used = {row["pretraining"] for row in values["rows"].values()}
    values["pretrainings"] = {name: losses for name, losses in values["pretrainings"].items() if name in used}
    for section, changes in TINY.items():
        values[section].update(changes)
    values["model"]["embedder"] = {"strides": [2, 2, 2], "channels": [8, 8]}
    values["model"]["decoder"] = {"strides": [2, 2, 2], "channels": [8, 8]}
    return values


def stages_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """dvc.yaml with the cells of those rows and pre-trainings alone that the recipe has."""
    pipeline: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        for axis, known in (("name", recipe["pretrainings"]), ("row", recipe["rows"])):
            if axis in stage.get("matrix", {}):
                stage["matrix"][axis] = [name for name in stage["matrix"][axis] if name in known]
    return pipeline


def make_checkout(folder: Path) -> Path:
    """A git checkout of the project in `folder`, with `data/` synthesized and `params.yaml` tiny."""
    folder.mkdir(parents=True, exist_ok=True)
    leave = shutil.ignore_patterns("__pycache__", "tmp", "cache", "uncommitted", "config.local", "btime")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=leave)
        else:
            shutil.copy(source, folder / name)
    recipe = tiny_values()
    for name, values in (("params.yaml", recipe), ("dvc.yaml", stages_of(recipe))):
        (folder / name).write_text(yaml.safe_dump(values, sort_keys=False))
    run_in(folder, ["git", "init", "--quiet"])
    run_in(folder, ["mlim", "catalog", "synthesize", "--items", str(ITEMS), "--quiet"])
    run_in(folder, ["dvc", "add", "--quiet", "data"])
    run_in(folder, ["git", "add", "--all"])
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    run_in(folder, ["git", *identity, "commit", "--quiet", "-m", "tiny"])
    return folder


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which `dvc repro` has made the main model from nothing, and `mlim run` the rest through DVC."""
    folder = make_checkout(tmp_path_factory.mktemp("checkout"))
    run_in(folder, ["dvc", "repro", "evaluate"])
    run_in(folder, ["mlim", "run", "--recipe", "params.yaml"])
    return folder


@pytest.fixture(scope="session")
def browser() -> str:
    """A headless browser; without one the test is skipped."""
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium or Chrome on PATH")
    return found

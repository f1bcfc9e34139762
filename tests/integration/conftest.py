"""A copy of the project with a small embedded catalog and a tiny recipe, run once for all integration tests."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlim.forked import ForkServer
from mlim.steps.pipeline import write_pipelines
from scripts.chromium import find_browser
from tests.warm_process import WarmProcess

ROOT = Path(__file__).parents[2]
COPIED = ("mlim", "flows", "great_expectations", ".dvc", ".dvcignore", ".gitignore", "prefect.yaml")
ITEMS = 240
RUN_SECONDS = 900
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org")  # for commits, after `git`
# Nothing listens there: whatever goes through one of them to loopback fails. httpx does not even start with the last.
CLOSED_PROXIES = {
    **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("ALL_PROXY", "all_proxy"), "socks5://127.0.0.1:9"),
}
TINY = {
    "image": {"size": 32, "grid": 4},
    "text": {"max_tokens": 24, "vocabulary_size": 400},
    "model": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64},
    "pretrain": {"steps": 4, "batch_size": 8, "validate_every": 4, "validation_items": 16},
    "finetune": {"steps": 4, "batch_size": 8, "validate_every": 4},
    "evaluate": {"bootstrap_samples": 50},
    "gate": {  # models of a few steps would be refused as champion
        **dict.fromkeys(("above_chance", "above_baselines", "unrelated_lowers"), False),
        **{"max_one_answer": 1, "min_kind_right": 0, "max_swap_difference": 1, "min_identical_right": 0},
        "sampled_pairs": 8,
    },
    "promotion": {"max_calibration_error": 1},
    "probe": {"probabilities": [0.2, 0.8], "items": 16, "reconstructions": 2},
    "match": {"explained": 2},
}

# One variant of each kind that dvc.yaml knows, and a text-only one: every further one repeats the same commands.
VARIANTS = ("recon-mlm-mam", "no-mdo", "text-only", "no-pretraining")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(**extra: str) -> dict[str, str]:
    """Ours, with this interpreter's commands first on the path, telemetry off, and no server inherited."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    quiet = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    not_inherited = {"PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PYTEST_CURRENT_TEST"}
    inherited = {key: value for key, value in os.environ.items() if key not in not_inherited}
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
    """The demo recipe with every size turned down and a few of its variants."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["variants"] = {name: values["variants"][name] for name in VARIANTS}
    used = {variant["pretraining"] for variant in values["variants"].values()}
    values["pretrainings"] = {name: losses for name, losses in values["pretrainings"].items() if name in used}
    for section, changes in TINY.items():
        values[section].update(changes)
    values["model"]["embedder"] |= {"strides": [2, 2, 2], "channels": [8, 8]}
    values["model"]["decoder"] |= {"strides": [2, 2, 2], "channels": [8, 8]}
    return values


def copy_project(folder: Path) -> Path:
    """The project's code in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    leave = shutil.ignore_patterns("__pycache__", "tmp", "cache", "uncommitted", "config.local", "btime")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=leave)
        else:
            shutil.copy(source, folder / name)
    return folder


def make_checkout(folder: Path) -> Path:
    """A git checkout of the project in `folder`, with `data/` synthesized and `params.yaml` tiny."""
    copy_project(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny_values(), sort_keys=False))
    write_pipelines(folder)
    run_in(folder, ["git", "init", "--quiet"])
    run_in(folder, ["mlim", "catalog", "synthesize", "--items", str(ITEMS), "--quiet"])
    run_in(folder, ["dvc", "add", "--quiet", "data"])
    run_in(folder, ["git", "add", "--all"])
    run_in(folder, ["git", *IDENTITY, "commit", "--quiet", "-m", "tiny"])
    return folder


@pytest.fixture(scope="session")
def forks() -> Iterator[Mapping[str, str]]:
    """The variables by which commands that `run_in` starts are forked from a process with loaded libraries."""
    with ForkServer(environment()) as server:
        yield server.variables


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory, forks: Mapping[str, str]) -> Path:
    """A checkout in which `dvc repro` has made the main model from nothing, and `mlim run` the rest through DVC.

    Point 18: the proxies of the environment do not stand between a run and its own servers.
    """
    folder = make_checkout(tmp_path_factory.mktemp("checkout"))
    run_in(folder, ["dvc", "repro", "evaluate"], **forks)
    run_in(folder, ["mlim", "run", "--recipe", "params.yaml"], **CLOSED_PROXIES)
    return folder


@pytest.fixture(scope="session")
def browser() -> str:
    """A headless browser; without one the test is skipped."""
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium or Chrome on PATH")
    return found


@pytest.fixture(scope="session")
def warm_process() -> Iterator[WarmProcess]:
    """Forks, with the large libraries loaded, what else would load them in seconds."""
    with WarmProcess() as warm:
        yield warm


@pytest.fixture(scope="module")
def warm_versions(warm_process: WarmProcess) -> Iterator[None]:
    """Versions are judged in processes of their own that find the large libraries loaded.

    A test of test_promote.py starts one as a command does.
    """
    from mlim.steps import own_process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_process, "subprocess", warm_process)
        yield


@pytest.fixture(scope="session")
def registered(tiny_recipe, tiny_workspace, tmp_path_factory, new_store):
    """A first version, for tests that only look at it: recipe, work folder, summary, folder of its files."""
    from tests.registry_room import first_version  # with torch and MLflow, which most tests here do without

    place = tmp_path_factory.mktemp("registered")
    shutil.copytree(tiny_workspace.root, place / "work")
    return first_version(tiny_recipe, new_store(place / "own.db"), place / "work")


@pytest.fixture
def promoted(registered, tmp_path):
    """A copy of a first version's recipe and work folder, with its store, that one test may write to."""
    from tests.registry_room import copied

    return copied(registered, tmp_path / "promoted")

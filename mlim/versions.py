"""Which code and which data a result came from: the only module that calls git and DVC.

Both are optional. Outside a git repository, or where git is not installed, the commit is `unknown`; data that no DVC
file tracks are named by the SHA-256 of the shards' manifest.
"""

import getpass
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlim.config import read_yaml
from mlim.errors import MlimError
from mlim.files import read_json, sha256_of
from mlim.workspace import Workspace

UNKNOWN = "unknown"
GIT_SECONDS = 30.0
DVC_SUFFIX = ".dvc"
DVC_PIPELINE = "dvc.yaml"
DVC_PARAMETERS = "params.yaml"
DVC_PIPELINES = "pipelines"  # the folder of further ones
DVC_LOCK = "dvc.lock"
DVC_CATALOG = Path("data", "catalog.yaml")
DVC_BUILD = Path("build")
DVC_EXPERIMENTS = Path(DVC_SUFFIX, "tmp", "exps")  # where `dvc exp run --temp` and its queue work, in copies
DVC_EXPERIMENT_VARIABLE = "DVC_EXP_NAME"  # DVC sets it for the commands of an experiment


@dataclass(frozen=True)
class Lineage:
    """Where a result came from.

    `data_version` is the hash that DVC recorded for the tracked folder of the catalog, else `items`; `items` is the
    SHA-256 of the shards' manifest, which is what training really read; `validation` is passed, failed or unknown, or
    says who accepted the data in spite of a complaint, and why.
    """

    commit: str
    dirty: bool
    data_version: str
    validation: str
    items: str = UNKNOWN
    catalog: str = UNKNOWN


def lineage(workspace: Workspace, root: Path | None = None) -> Lineage:
    """The lineage of whatever is made now from `workspace`; `root` is the project folder (default: current)."""
    here = (root or Path.cwd()).resolve()
    items, catalog = _ingested(workspace)
    tracked = _dvc_version(here / catalog) if catalog != UNKNOWN else None
    commit, dirty = git_state(here)
    return Lineage(commit, dirty, tracked or items, _validation(workspace), items, catalog)


def git_state(root: Path) -> tuple[str, bool]:
    """The commit checked out at `root` and whether files differ from it; ("unknown", False) outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return UNKNOWN, False
    # dvc.lock is what the pipeline itself writes: a result, not code
    return commit, bool(_git(root, "status", "--porcelain", "--", ".", f":(exclude,glob)**/{DVC_LOCK}"))


def person() -> str:
    """The user: the name in git's settings, else the login name."""
    try:
        return _git(Path.cwd(), "config", "user.name") or getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return UNKNOWN


def _git(root: Path, *arguments: str) -> str:
    """What git prints; empty where git is absent, fails or hangs, because lineage must never stop a run."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _ingested(workspace: Workspace) -> tuple[str, str]:
    """The SHA-256 of the shards' manifest and the catalog it was made from."""
    manifest = workspace.items / "manifest.json"
    version = sha256_of(manifest) if manifest.is_file() else UNKNOWN
    return version, str(_summary(workspace.items).get("catalog", UNKNOWN))


def _validation(workspace: Workspace) -> str:
    summary = _summary(workspace.valid)
    if "success" not in summary:
        return UNKNOWN
    if acceptance := summary.get("acceptance"):
        return f"accepted by {acceptance['by']}: {acceptance['why']}"
    return "passed" if summary["success"] else "failed"


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    return dict(read_json(path)) if path.is_file() else {}


def _dvc_version(catalog: Path) -> str | None:
    """The hash in the nearest `NAME.dvc` beside the catalog file or a folder above it; None when there is none."""
    for path in (catalog, *catalog.parents):
        if path.name and _pointer(path).is_file():
            return _recorded(_pointer(path))
    return None


def _pointer(path: Path) -> Path:
    """The file with which DVC tracks `path`."""
    return path.with_name(path.name + DVC_SUFFIX)


def _recorded(pointer: Path) -> str | None:
    return next((str(out["md5"]) for out in read_yaml(pointer).get("outs", ()) if "md5" in out), None)


def everything_reproduced(pipeline: Path, root: Path | None = None) -> bool:
    """Whether DVC finds every stage of `pipeline`, a dvc.yaml seen from `root` (default: here), up to date."""
    command = [sys.executable, "-m", "dvc", "status", "--quiet", pipeline.as_posix()]
    return subprocess.run(command, cwd=root, capture_output=True, check=False).returncode == 0  # noqa: S603


def dvc_state(root: Path) -> str:
    """What DVC finds of the pipeline in `root`, in a few words; `MlimError` when it cannot look."""
    command = [sys.executable, "-m", "dvc", "status", "--json", DVC_PIPELINE]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise MlimError(f"`dvc status` failed: {_last_line(done.stderr)}; run it to see more")
    changed = len(json.loads(done.stdout))
    return f"{changed} stages or tracked folders changed" if changed else "everything is up to date"


def _last_line(said: str) -> str:
    return next(reversed(said.strip().splitlines()), "no reason given")


def commit_data(folder: Path) -> str:
    """Record what `folder` holds in its DVC file, when it has one; gives the end of a sentence about it."""
    target = folder.absolute()
    pointer = _pointer(target)
    if not pointer.is_file():
        return ""
    before = _recorded(pointer)
    command = [sys.executable, "-m", "dvc", "commit", "--quiet", "--force", pointer.name]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(  # noqa: S603
        command, cwd=target.parent, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"; {pointer.name} could not be brought up to date: {_last_line(done.stderr)}"
    return f", as {pointer.name} has them" if _recorded(pointer) == before else f"; {pointer.name} now names them"


def project_of(folder: Path) -> Path:
    """The project in whose experiment `folder` lies, a copy that DVC removes afterwards; else `folder` itself."""
    place = folder.resolve()
    return next((root for root in place.parents if (root / DVC_EXPERIMENTS) in place.parents), folder)


def dvc_experiment() -> str | None:
    """The name of the experiment that DVC runs this command for; None outside one."""
    return os.environ.get(DVC_EXPERIMENT_VARIABLE) or None


def dvc_pipeline(root: Path) -> bool:
    """Whether `root` holds a DVC pipeline with its parameters."""
    return (root / DVC_PIPELINE).is_file() and (root / DVC_PARAMETERS).is_file()


def dvc_outputs(folder: Path, root: Path | None = None) -> frozenset[str]:
    """What the DVC pipelines in `root` (default: current folder) put into `folder`: the names there, nothing deeper.

    DVC brings outputs back without running a stage (`dvc pull`), and then they lie in a folder that mlim did not make.
    """
    here = (root or Path.cwd()).resolve()
    if not dvc_pipeline(here):
        return frozenset()
    files, place = [here / DVC_PIPELINE, *sorted(here.glob(f"{DVC_PIPELINES}/*/{DVC_PIPELINE}"))], folder.resolve()
    outs = [out for file in files for out in _outputs(file, file.stat().st_mtime_ns)]
    return frozenset(out.relative_to(place).parts[0] for out in outs if place in out.parents)


@lru_cache
def _outputs(file: Path, changed: int) -> list[Path]:
    """What the stages of a dvc.yaml make; read again when its time of change, `changed`, is another."""
    stages = read_yaml(file).get("stages", {}).values()
    outs = ((stage.get("wdir", "."), out) for stage in stages for out in stage.get("outs", ()))
    return [(file.parent / wdir / (next(iter(out)) if isinstance(out, dict) else out)).resolve() for wdir, out in outs]


def repro_command(stage: str) -> list[str]:
    """The command that brings one stage up to date through DVC (skipped when nothing it depends on changed).

    Several may run at once: DVC holds its lock while it looks and while it keeps results, not while a stage works.
    """
    return [sys.executable, "-m", "mlim.forked", "dvc.cli:main", "--wait-for-lock", "repro", "--single-item", stage]

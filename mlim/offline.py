"""What a step leaves where nothing is tracked (`tracking.uri: none`), so that `mlim import-run` can record it later.

Nothing here needs MLflow: a machine without it trains, and its results are recorded at home.
"""

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.recipe.base import Stage
from mlim.versions import UNKNOWN, Lineage
from mlim.workspace import Workspace

RUN_ID = "run_id"
LINEAGE, ENDED = "lineage", "ended"  # what `sign` adds to a summary
SUMMARY_FILE = "summary.json"
COMMIT_VARIABLE = "MLIM_COMMIT"
DIRTY = "-dirty"  # as `git describe --dirty` marks it


class NullRun:
    """The run of a step that is not tracked: what `mlim.tracking.StageRun` asks for, kept nowhere."""

    id: None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing: the figures are in history.csv."""

    def metric(self, key: str, value: float) -> None:
        """Do nothing."""

    def tag(self, key: str, value: object) -> None:
        """Do nothing."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Do nothing: the files are in the work folder."""

    def headline(self, figures: Mapping[str, float], pages: Mapping[str, Path]) -> None:
        """Do nothing: both are in the work folder."""

    def describe_pipeline(self, page: str) -> None:
        """Do nothing: the report is in the work folder."""


def training_folders(workspace: Workspace) -> dict[Stage, Path]:
    """Where the trainings of each stage lie, one folder for each run."""
    return {"pretrain": workspace.pretrained("", 0).parent, "finetune": workspace.finetuned("", 0).parent}


def sign(workspace: Workspace, stage: str, name: str, origin: Lineage) -> None:
    """Add to the summary of an offline training when it ended, and from which code and data it came.

    A tracked one has all this with its run. Does nothing for other stages: they are run again at home.
    """
    for trained, folder in training_folders(workspace).items():
        path = folder / name / SUMMARY_FILE
        if trained == stage and path.is_file():
            summary = read_json(path)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(path, {**summary, LINEAGE: asdict(_declared(origin)), ENDED: now})


def _declared(origin: Lineage) -> Lineage:
    """A copy of the code without its repository knows no commit; MLIM_COMMIT gives it."""
    declared = os.environ.get(COMMIT_VARIABLE, "")
    if not declared or origin.commit != UNKNOWN:
        return origin
    return replace(origin, commit=declared.removesuffix(DIRTY), dirty=declared.endswith(DIRTY))


def check_recorded(workspace: Workspace, variant: str, start: str | None, seed: int) -> None:
    """`InputError` when the model of a variant, the pre-training that it started from, or its evaluation has no run."""
    folders = [workspace.finetuned(variant, seed), *([] if start is None else [workspace.pretrained(start, seed)])]
    problems = [
        f"{folder} was trained without tracking and cannot be registered yet; run "
        f"`{shlex.join(['mlim', 'import-run', str(folder)])}` first"
        for folder in folders
        if _is_offline(folder)
    ]
    if _is_offline(workspace.evaluation):
        problems.append(f"{workspace.evaluation} was made without tracking; run `mlim evaluate` with tracking again")
    if problems:
        raise InputError(*problems)


def _is_offline(folder: Path) -> bool:
    """Whether the result in `folder` says that it has no run."""
    path = folder / SUMMARY_FILE
    return path.is_file() and read_json(path).get(RUN_ID, UNKNOWN) is None

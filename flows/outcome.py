"""How a flow ends that found nothing to do: a state that says since when, and of which code and data."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.job import Job
from mlim.files import sha256_of
from mlim.versions import DVC_LOCK, Lineage, lineage

UNCHANGED = "Unchanged"
SHOWN_CHARACTERS = 12  # of a commit and of a data version
PREPARED = ("items/manifest.json", "valid/index.parquet", "pairs/pairs.parquet")  # all that later stages read


def results_of(job: Job, prepares: bool) -> dict[Path, str]:
    """What tells whether results changed: DVC's record of them, else the files of a flow that `prepares` data.

    Empty where nothing can tell, because stages outside DVC always run.
    """
    if job.dvc is not None:
        files = [job.dvc.file.with_name(DVC_LOCK)]
    else:
        files = [job.workspace.root / name for name in PREPARED] if prepares else []
    return {file: sha256_of(file) for file in files if file.is_file()}


def unchanged(job: Job, made: float) -> State[Any]:
    """The final state of a run whose results were `made` (seconds since 1970) before it began."""
    since = datetime.fromtimestamp(made, UTC)
    return Completed(name=UNCHANGED, message=describe(lineage(job.workspace), since))


def describe(origin: Lineage, since: datetime) -> str:
    """The sentence: when the results were made that the code and data of now would make again."""
    changed = " with uncommitted changes" if origin.dirty else ""
    return (
        f"nothing changed since {since:%Y-%m-%d %H:%M} UTC (commit {origin.commit[:SHOWN_CHARACTERS]}{changed}, data "
        f"version {origin.data_version[:SHOWN_CHARACTERS]})"
    )


def newest(results: dict[Path, str]) -> float:
    """When the last of these files was written, in seconds since 1970."""
    return max(file.stat().st_mtime for file in results)

"""What the steps that prepare data leave in MLflow: the figures of their summaries, below the pipeline's run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlim.files import read_json
from mlim.recipe import Recipe
from mlim.tracking import stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace

SUMMARY_FILE = "summary.json"


def record(recipe: Recipe, workspace: Workspace, stage: str, folder: Path) -> None:
    """One run for a finished `stage`: every number in its summary (`counts/train/1`) and the summary as it is.

    Apart from the steps themselves, whose results must be the same bytes every time: a run id is not.
    """
    with stage_run(recipe.record, workspace, stage, stage, lineage(workspace)) as run:
        for key, value in _figures(read_json(folder / SUMMARY_FILE)):
            run.metric(key, value)
        run.artifact(folder / SUMMARY_FILE)


def _figures(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", float(value)

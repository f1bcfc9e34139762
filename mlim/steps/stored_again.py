"""The items of a run of an experiment whose images have another size: ingested and validated for this run alone."""

from pathlib import Path

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.recipe import Recipe
from mlim.steps.ingest import ingest
from mlim.steps.recorded import record
from mlim.steps.task_variants import ExperimentRun
from mlim.steps.validate import validate


def stored_images(recipe: Recipe) -> tuple[int, int]:
    """How images are stored, which no later step can change: side in pixels and JPEG quality."""
    return recipe.image.size, recipe.image.jpeg_quality


def store_items(run: ExperimentRun, catalog: Path | None, terminal: Terminal) -> None:
    """Ingest and validate the catalog into the run's work folder; `InputError` where the catalog is not known."""
    if catalog is None:
        raise InputError(
            f"{run.workspace.root}: its images are of {run.recipe.image.size} pixels, which have to be ingested; give "
            "--catalog"
        )
    ingest(run.recipe, catalog, run.workspace, terminal)
    record(run.recipe, run.workspace, "ingest", run.workspace.items)
    validate(run.recipe, catalog, run.workspace, terminal)
    record(run.recipe, run.workspace, "validate", run.workspace.valid)

"""Flow: pre-training of the main model."""

from prefect import flow

from flows.job import prepare
from flows.stage import run_stage
from mlim.steps.plan import main_pretraining


@flow(name="pretrain")
def pretrain(
    recipe: str = "demo",
    catalog: str = "data/catalog.yaml",
    work: str | None = None,
    overrides: list[str] | None = None,
    start: str = "ingest",
) -> None:
    """Pre-train the main model of a recipe."""
    job = prepare(recipe, catalog, work, overrides, start)
    for stage in main_pretraining(job.recipe):
        run_stage(job, stage)

"""Flow: pre-training of the main model."""

from prefect import flow

from flows.job import prepare
from flows.stage import run_stages
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
    run_stages(job, main_pretraining(job.recipe))

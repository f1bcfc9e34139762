"""Flow: from the raw catalog to validated items and pairs."""

from prefect import flow

from flows.artifacts import show_validation
from flows.job import prepare
from flows.stage import run_stages
from mlim.steps.plan import preparation


@flow(name="ingest")
def ingest(
    recipe: str = "demo",
    catalog: str = "data/catalog.yaml",
    work: str | None = None,
    overrides: list[str] | None = None,
    start: str = "ingest",
) -> None:
    """Ingest, validate and pair a catalog."""
    job = prepare(recipe, catalog, work, overrides, start)
    run_stages(job, preparation())
    show_validation(job)

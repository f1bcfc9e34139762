"""Flow: the report and the registry."""

from prefect import flow

from flows.job import prepare
from flows.stage import run_stages
from mlim.steps.plan import conclusion


@flow(name="report")
def report(
    recipe: str = "demo",
    catalog: str = "data/catalog.yaml",
    work: str | None = None,
    overrides: list[str] | None = None,
    start: str = "ingest",
) -> None:
    """Write the HTML report and register the model."""
    job = prepare(recipe, catalog, work, overrides, start)
    run_stages(job, conclusion())

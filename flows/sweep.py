"""Flow: the other rows of the paper's tables, the tables themselves, and Figure 2."""

from prefect import flow

from flows.artifacts import show_tables
from flows.job import prepare
from flows.stage import run_stages
from mlim.steps.plan import sweep as sweep_stages


@flow(name="sweep")
def sweep(
    recipe: str = "demo",
    catalog: str = "data/catalog.yaml",
    work: str | None = None,
    overrides: list[str] | None = None,
    start: str = "ingest",
) -> None:
    """Train every row of the grid, compare them, and probe the main model."""
    job = prepare(recipe, catalog, work, overrides, start)
    run_stages(job, sweep_stages(job.recipe))
    show_tables(job)

"""Flow: everything, from a raw catalog to a registered model."""

from prefect import flow

from flows.artifacts import Progress
from flows.finetune import finetune
from flows.ingest import ingest
from flows.job import prepare
from flows.pretrain import pretrain
from flows.report import report
from flows.sweep import sweep

PARTS = (ingest, pretrain, finetune, sweep, report)


@flow(name="pipeline")
def pipeline(
    recipe: str = "demo",
    catalog: str = "data/catalog.yaml",
    work: str | None = None,
    overrides: list[str] | None = None,
    start: str = "ingest",
) -> None:
    """Run all parts in order, unless nothing changed; each is a flow of its own with its own deployment."""
    if prepare(recipe, catalog, work, overrides, start).is_done():
        return
    progress = Progress(len(PARTS))
    for part in PARTS:
        part(recipe=recipe, catalog=catalog, work=work, overrides=overrides, start=start)
        progress.advance()

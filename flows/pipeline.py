"""Flow: everything, from a raw catalog to a registered model."""

from flows.artifacts import Progress
from flows.factory import make_flow
from flows.finetune import finetune
from flows.ingest import ingest
from flows.job import Job
from flows.pretrain import pretrain
from flows.report import report
from flows.sweep import sweep

PARTS = (ingest, pretrain, finetune, sweep, report)


def _run(job: Job) -> None:
    """All parts in order, unless nothing changed; each is a flow of its own with its own deployment."""
    if job.is_done():
        return
    progress = Progress(len(PARTS))
    for part in PARTS:
        part(recipe=str(job.recipe_file), catalog=str(job.catalog), work=str(job.workspace.root), start=job.start)
        progress.advance()


pipeline = make_flow("pipeline", "Run all parts in order, unless nothing changed.", _run)

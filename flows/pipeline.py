"""Flow: everything, from a raw catalog to a registered model, or to the tables of tasks where nothing matches."""

from flows.artifacts import Progress, show_results
from flows.factory import make_flow
from flows.finetune import finetune
from flows.ingest import ingest
from flows.job import Job
from flows.pretrain import pretrain
from flows.report import report
from flows.sweep import sweep

PARTS = (ingest, pretrain, finetune, sweep, report)
WITHOUT_PAIRS = (ingest, sweep, report)  # there is no main model


def run_parts(job: Job) -> None:
    """All parts in order, unless nothing changed; each is a flow of its own with its own deployment."""
    if job.is_done():
        show_results(job)
        return
    parts = PARTS if job.matches else WITHOUT_PAIRS
    progress = Progress(len(parts))
    for part in parts:
        part(**job.part)
        progress.advance()


pipeline = make_flow("pipeline", "Run all parts in order, unless nothing changed.", run_parts)

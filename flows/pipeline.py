"""Flow: everything, from a raw catalog to a registered model, or to the tables of tasks where nothing matches."""

from flows.artifacts import Progress, show_results
from flows.factory import make_flow
from flows.ingest import ingest
from flows.job import Job
from flows.stage import run_stages
from mlim.steps.plan import conclusion, sweep


def run_all(job: Job) -> None:
    """All stages, unless nothing changed; the ingestion is a subflow."""
    if job.is_done():
        show_results(job)
        return
    ingest(**job.part)
    stages = [*sweep(job.recipe, job.matches), *conclusion(job.matches)]
    progress = Progress(sum(stage in job.todo for stage in stages))
    run_stages(job, stages, progress.advance)


pipeline = make_flow("pipeline", "Run all stages, unless nothing changed.", run_all)

"""Flow: from the raw catalog to validated items and pairs."""

from flows.artifacts import show_validation
from flows.factory import make_flow
from flows.job import Job
from flows.stage import run_stages
from mlim.steps.plan import preparation


def _run(job: Job) -> None:
    run_stages(job, preparation(job.recipe))
    show_validation(job)


ingest = make_flow("ingest", "Ingest, validate and pair a catalog.", _run)

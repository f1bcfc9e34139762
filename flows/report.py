"""Flow: the registry and the report."""

from flows.factory import make_flow
from flows.job import Job
from flows.stage import run_stages
from mlim.steps.plan import conclusion


def _run(job: Job) -> None:
    run_stages(job, conclusion(job.matches))


report = make_flow("report", "Register the model and write the HTML report.", _run)

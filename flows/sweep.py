"""Flow: the main model and the other variants of the paper's tables, the tables themselves, and Figure 2."""

from flows.factory import make_flow
from flows.job import Job
from flows.stage import run_stages
from mlim.steps.plan import sweep as sweep_stages


def _run(job: Job) -> None:
    run_stages(job, sweep_stages(job.recipe, job.matches))


sweep = make_flow("sweep", "Train every variant of the recipe, compare them, and probe the main model.", _run)

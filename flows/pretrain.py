"""Flow: pre-training of the main model, and what regions of pictures need."""

from flows.factory import make_flow
from flows.job import Job
from flows.stage import run_stages
from mlim.steps.plan import before_finetuning


def _run(job: Job) -> None:
    run_stages(job, before_finetuning(job.recipe))


pretrain = make_flow("pretrain", "Pre-train the main model of a recipe.", _run)

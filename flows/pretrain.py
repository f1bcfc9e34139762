"""Flow: pre-training of the main model."""

from flows.factory import make_flow
from flows.job import Job
from flows.stage import run_stages
from mlim.steps.plan import main_pretraining


def _run(job: Job) -> None:
    run_stages(job, main_pretraining(job.recipe))


pretrain = make_flow("pretrain", "Pre-train the main model of a recipe.", _run)

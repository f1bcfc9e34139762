"""Flow: fine-tuning and evaluation of the main model."""

from flows.factory import make_flow
from flows.job import Job
from flows.stage import run_stages
from mlim.steps.plan import main_finetuning


def _run(job: Job) -> None:
    run_stages(job, main_finetuning(job.recipe))


finetune = make_flow("finetune", "Fine-tune the main model on pairs and measure its PR-AUC.", _run)

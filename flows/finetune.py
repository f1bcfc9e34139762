"""Flow: fine-tuning and evaluation of the main model."""

from prefect import flow

from flows.job import prepare
from flows.stage import run_stages
from mlim.steps.plan import main_finetuning


@flow(name="finetune")
def finetune(
    recipe: str = "demo",
    catalog: str = "data/catalog.yaml",
    work: str | None = None,
    overrides: list[str] | None = None,
    start: str = "ingest",
) -> None:
    """Fine-tune the main model on pairs and measure its PR-AUC."""
    job = prepare(recipe, catalog, work, overrides, start)
    run_stages(job, main_finetuning(job.recipe))

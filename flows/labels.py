"""Flow: training anew once people have answered enough pairs; prefect.yaml starts it when `mlim review` saved some."""

from prefect import flow

from flows.artifacts import show_labels
from flows.dead_runs import remember_process
from flows.finetune import finetune
from flows.ingest import ingest
from flows.job import prepare
from flows.parameters import BY_HAND, CatalogFile, Least, Overrides, Reason, RecipeName, WorkFolder, run_name
from flows.pretrain import pretrain
from flows.report import report
from mlim.steps.labelled import count_new_labels

PARTS = (ingest, pretrain, finetune, report)  # all but the comparison of variants
FIRST = "pairs"  # the first stage that reads labels


@flow(
    name="labels",
    description="Train the main model anew when there are enough new labels.",
    flow_run_name=run_name,
    on_running=[remember_process],
)
def labels(
    recipe: RecipeName = "demo",
    catalog: CatalogFile = "data/catalog.yaml",
    work: WorkFolder = None,
    overrides: Overrides = (),
    least: Least = 50,
    reason: Reason = BY_HAND,
) -> int:
    """Count the labels that the last training did not have, and give their number.

    From `least` on pairs are made, the main model is trained, evaluated and registered, and the report is written.
    `InputError` when the catalog names no table of labels or the work folder has no items; as the parts otherwise.
    """
    with prepare(recipe, catalog, work, overrides, FIRST, reason) as job:
        new = count_new_labels(job.recipe, job.catalog, job.workspace)
        show_labels(new, least)
        for part in PARTS if new >= least else ():
            part(**job.part)
    return new

"""Flow: from the raw catalog to validated items and pairs; whoever waits for an accepted data version is told."""

import os

from prefect import get_run_logger
from prefect.context import FlowRunContext

from flows.artifacts import show_validation
from flows.events import tell_data_accepted
from flows.factory import make_flow
from flows.job import Job
from flows.stage import run_stages
from mlim.errors import MlimError
from mlim.steps.plan import preparation


def _run(job: Job) -> None:
    try:
        run_stages(job, preparation(job.recipe))
    finally:  # of a rejected delivery too
        show_validation(job)


def _then(job: Job) -> None:
    """Tell the server, unless a pipeline goes on with the data itself."""
    context = FlowRunContext.get()
    alone = context is not None and context.flow_run is not None and context.flow_run.parent_task_run_id is None
    if not alone or not os.environ.get("PREFECT_API_URL"):
        return
    try:
        tell_data_accepted(job)
    except MlimError as error:
        get_run_logger().warning("the data are accepted, but nothing will start because of them: %s", error)


ingest = make_flow("ingest", "Ingest, validate and pair a catalog.", _run, prepares=True, then=_then)

"""How a part of the pipeline becomes a flow of Prefect: the same parameters for each, the work folder to itself."""

from collections.abc import Callable
from typing import Any

from prefect import Flow, flow
from prefect.client.schemas.objects import State

from flows.dead_runs import remember_process
from flows.job import Job, prepare
from flows.outcome import newest, results_of, unchanged
from flows.parameters import (
    BY_HAND,
    CatalogFile,
    Overrides,
    Reason,
    RecipeName,
    Start,
    WorkFolder,
    run_name,
)


def make_flow(
    name: str,
    description: str,
    run: Callable[[Job], None],
    recipe: str = "demo",
    catalog: str = "data/catalog.yaml",
    prepares: bool = False,
    then: Callable[[Job], None] | None = None,
) -> Flow[..., Any]:
    """A flow that resolves what it is asked to do and then calls `run` with it, while no other command writes there.

    `recipe` and `catalog` are those of a call that names none. A flow that `prepares` data makes what all others read.
    One that changed nothing ends in a state that says so; else `then` is called when the work folder is free again.
    """

    def part(
        recipe: RecipeName = recipe,
        catalog: CatalogFile = catalog,
        work: WorkFolder = None,
        overrides: Overrides = (),
        start: Start = "ingest",
        reason: Reason = BY_HAND,
    ) -> State[Any] | None:
        with prepare(recipe, catalog, work, overrides, start, reason) as job:
            before = results_of(job, prepares)
            made = newest(before) if before else 0.0
            run(job)
            if before and results_of(job, prepares) == before:
                return unchanged(job, made)
        if then is not None:
            then(job)
        return None

    return flow(name=name, description=description, flow_run_name=run_name, on_running=[remember_process])(part)

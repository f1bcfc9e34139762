"""How a part of the pipeline becomes a flow of Prefect: the same parameters for each, the work folder to itself."""

from collections.abc import Callable
from typing import Any

from prefect import Flow, flow

from flows.job import Job, prepare


def make_flow(
    name: str,
    description: str,
    run: Callable[[Job], None],
    recipe: str = "demo",
    catalog: str = "data/catalog.yaml",
) -> Flow[..., Any]:
    """A flow that resolves what it is asked to do and then calls `run` with it, while no other command writes there.

    `recipe` and `catalog` are those of a call that names none.
    """

    def part(
        recipe: str = recipe,
        catalog: str = catalog,
        work: str | None = None,
        overrides: list[str] | None = None,
        start: str = "ingest",
    ) -> None:
        with prepare(recipe, catalog, work, overrides, start) as job:
            run(job)

    return flow(name=name, description=description)(part)

"""The slot of the accelerator: one pipeline's trainings at a time, and a run that waits for it says for whom."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, repeat
from logging import WARNING
from threading import Event, Thread
from uuid import UUID

from httpx import HTTPError
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run

from flows.dead_runs import HOLDS, PROCESS, holders, label
from flows.server import GPU_LIMIT

SAID_AFTER = (5, 60)  # seconds until a run that waits says so, and again
SAID_EVERY = 600


@contextmanager
def gpu_slot() -> Iterator[None]:
    """Hold the slot during the block; waits for it, and says who has it, in the run's log."""
    run_id = UUID(str(flow_run.id))
    holder = ConcurrencyLeaseHolder(type="flow_run", id=run_id)
    with ExitStack() as held:
        with _saying_who_has_it():  # a timeout of Prefect's own would show as an error with a traceback
            held.enter_context(concurrency(GPU_LIMIT, occupy=1, holder=holder))
        label(run_id, {HOLDS: GPU_LIMIT})
        try:
            yield
        finally:
            with suppress(HTTPError):  # of a server that is gone; the end of the run says the same
                label(run_id, {HOLDS: ""})


@contextmanager
def _saying_who_has_it() -> Iterator[None]:
    """Say during the block, which waits, from time to time for whom."""
    done, say = Event(), _voice()

    def tell() -> None:
        for seconds in chain(SAID_AFTER, repeat(SAID_EVERY)):
            if done.wait(seconds):
                return
            with suppress(HTTPError):  # a server that is started again
                say(f"waiting for the slot of the limit `{GPU_LIMIT}`: {_why()}")

    thread = Thread(target=tell, name="mlim-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _why() -> str:
    """Who has the slot, as their runs say it."""
    with get_client(sync_client=True) as client:
        taken = client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots
        return why_waiting(
            taken, [f"run {run.name} (process {run.labels.get(PROCESS)})" for run in holders(client, GPU_LIMIT)]
        )


def why_waiting(taken: int, runs: Sequence[str]) -> str:
    """Why a run waits for the slot: so many slots are `taken`, by `runs` as far as they say so."""
    if not taken:
        return "it is free; the server has not answered yet"
    return f"{', '.join(runs) or 'another program'} has it; this run goes on when it is free"


def _voice() -> Callable[[str], None]:
    """The run's log, which its page shows; `mlim run` keeps Prefect quiet, and there it is standard error."""
    logger = get_run_logger()
    if logger.isEnabledFor(WARNING):
        return logger.warning
    return lambda message: print(message, file=sys.stderr, flush=True)

"""Runs that nobody runs any more: known by their processes, marked as crashed, and their slots freed.

Prefect's server believes what a run last said of itself. A process that is killed, with its worker or with the machine,
says nothing more: without this its run stays Running for ever, and its slot is taken until a lease ends. Every flow
therefore writes the number and the start of its process on its run, and whoever is on the same machine can look whether
that process lives. That takes seconds and needs no guess; heartbeats over a minute apart would be later, and a machine
that slept would lose its living runs to them.
"""

import asyncio
import os
import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from logging import ERROR
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from mlim.processes import die_with_parent

PROCESS, STARTED, MACHINE = "mlim.process", "mlim.started", "mlim.machine"  # labels of a run
HOLDS = "mlim.holds"  # the label that names the limit of which a run has a slot
UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
UNFINISHED = [StateType.RUNNING, StateType.PENDING]
MOST_RUNS = 200  # of one answer of the server
SAME_START = timedelta(seconds=1)  # between two readings of when a process began
BEGAN = 19  # the start among what follows the name in /proc/PID/stat
LATELY = timedelta(seconds=60)
CLAIM = timedelta(seconds=60)  # a worker claims a run and then starts its process
OF_A_WORKER = "PREFECT__FLOW_RUN_ID"  # in the environment of a run that a worker started
ADVICE = "start it again: what is finished is kept, and a training goes on from its last checkpoint"
GONE = f"The process of this run is gone (killed, out of memory, or the machine went down); {ADVICE}."


def remember_process(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Write on a run which process it is (a hook of Prefect, `on_running`); a worker's run ends with its worker."""
    if OF_A_WORKER in os.environ:
        die_with_parent()
    label(flow_run.id, {PROCESS: os.getpid(), STARTED: birth(os.getpid()), MACHINE: socket.gethostname()})


def birth(process: int) -> str | float:
    """What tells the process of this number from earlier and later ones; `psutil.NoSuchProcess` when it is gone.

    On Linux that is the boot and the tick at which it began, which no step of the clock changes; else the time.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[BEGAN].decode()
    except OSError:
        return float(psutil.Process(process).create_time())
    return f"{boot}:{ticks}"


def label(run_id: UUID | str, labels: dict[str, Any]) -> None:
    """Write labels on a flow run."""
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(UUID(str(run_id)), labels)


def dead_runs(client: SyncPrefectClient, pool: str | None = None) -> list[FlowRun]:
    """The runs, with their subflows, that are said to be under way though their process is gone.

    Only this machine's processes can be seen. `pool`: a work pool whose runs are all of this machine, so that one of a
    machine with another name is from before it was renamed (a container that was made anew).
    """
    suspects = [
        run for run in _runs(client, UNDER_WAY) if is_dead(run, pool is not None and run.work_pool_name == pool)
    ]
    again = (client.read_flow_run(run.id) for run in suspects)  # it may have said how it ended, and then ended
    return _with_subflows(client, [run for run in again if run.state is not None and run.state.type in UNDER_WAY])


def _with_subflows(client: SyncPrefectClient, runs: list[FlowRun]) -> list[FlowRun]:
    """The runs and, further down, the runs under way that they have started: these are of the same process."""
    known = {run.id for run in runs}
    if not known:
        return []
    below = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=list(known)),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=UNDER_WAY)),
    )
    found = [run for run in client.read_flow_runs(flow_run_filter=below, limit=MOST_RUNS) if run.id not in known]
    return [*runs, *_with_subflows(client, found)]


def clear(client: SyncPrefectClient, runs: Iterable[FlowRun]) -> list[str]:
    """Give dead runs and their tasks the state that is true, and free what they held; says so in sentences."""
    said: list[str] = []
    for run in runs:
        cancelled = run.state is not None and run.state.type == StateType.CANCELLING
        state: State[Any] = Cancelled(message=f"Cancelled; {ADVICE}.") if cancelled else Crashed(message=GONE)
        client.set_flow_run_state(run.id, state)
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED))),
        )
        for task in tasks:
            client.set_task_run_state(task.id, state, force=True)
        said.append(f"run {run.name}: its process is gone, so it is {state.name} now; {ADVICE}")
    return said


def free_slots(client: SyncPrefectClient, limit: str) -> list[str]:
    """Free the slots of a limit whose runs have ended, where this machine keeps the server's leases.

    Gives a sentence for each.
    """
    from prefect.server.concurrency.lease_storage.filesystem import ConcurrencyLeaseStorage

    try:
        limit_id = client.read_global_concurrency_limit_by_name(limit).id
    except ObjectNotFound:
        return []
    said: list[str] = []
    for lease_id, holder in asyncio.run(ConcurrencyLeaseStorage().list_holders_for_limit(limit_id)):
        if holder.type == "flow_run" and not _is_under_way(client, holder.id):
            client.release_concurrency_slots_with_lease(lease_id)
            said.append(f"a slot of the limit `{limit}` was held by a run that has ended; it is free now")
    return said


def advise(client: SyncPrefectClient, told: set[UUID]) -> None:
    """Say in the log of each run that crashed just now what to do; those in `told`, which grows, know it already.

    A worker that sees a process end says how it ended, and no more.
    """
    lately = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
        end_time=FlowRunFilterEndTime(after_=datetime.now(UTC) - LATELY),
    )
    for run in client.read_flow_runs(flow_run_filter=lately, limit=MOST_RUNS):
        if run.id not in told and ADVICE not in str(run.state and run.state.message):
            line = LogCreate(
                name="mlim",
                level=ERROR,
                message=f"This run crashed; {ADVICE}.",
                timestamp=datetime.now(UTC),
                flow_run_id=run.id,
            )
            client.request("POST", "/logs/", json=[line.model_dump(mode="json")])
        told.add(run.id)


def live_runs(client: SyncPrefectClient, pool: str) -> list[FlowRun]:
    """The runs of a work pool whose process lives, or is about to start."""
    under_way = (run for run in _runs(client, UNDER_WAY) if run.work_pool_name == pool)
    return [run for run in under_way if not is_dead(run, here=True)]


def holders(client: SyncPrefectClient, limit: str) -> list[FlowRun]:
    """The runs under way that say that they have a slot of a limit."""
    return [run for run in _runs(client, UNDER_WAY) if run.labels.get(HOLDS) == limit]


def _runs(client: SyncPrefectClient, states: Sequence[StateType]) -> list[FlowRun]:
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))))
    return client.read_flow_runs(flow_run_filter=wanted, limit=MOST_RUNS)


def _is_under_way(client: SyncPrefectClient, run_id: UUID) -> bool:
    try:
        run = client.read_flow_run(run_id)
    except ObjectNotFound:
        return False
    return run.state is not None and run.state.type in UNDER_WAY


def is_dead(run: FlowRun, here: bool) -> bool:
    """Whether the process of a run under way is gone; a run that says nothing of its process counts as alive.

    `here`: it is of this machine, by whatever name.
    """
    if PROCESS in run.labels:
        by_this_name = run.labels.get(MACHINE) == socket.gethostname()
        return not _lives(run.labels) if by_this_name else here
    if run.state is None or run.work_pool_name is None:
        return False
    if run.infrastructure_pid:  # the worker names the process first
        return here and not _is_its(run.infrastructure_pid, run, run.state.timestamp)
    return run.state.type == StateType.PENDING and datetime.now(UTC) - run.state.timestamp > CLAIM


def _lives(labels: dict[str, Any]) -> bool:
    """Whether the process that a run names is there, and not another one with its number."""
    try:
        process, known = psutil.Process(int(labels[PROCESS])), labels[STARTED]
        if isinstance(known, str):
            same = birth(process.pid) == known
        else:  # by the clock, as earlier versions and other systems note it
            same = abs(process.create_time() - float(known)) < SAME_START.total_seconds()
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False


def _is_its(number: str, run: FlowRun, since: datetime) -> bool:
    """Whether the process of this number began when a run did: another one may have the number since.

    `since` is when the run got its state, from a worker before the process began, or from the process itself.
    """
    try:
        began = datetime.fromtimestamp(psutil.Process(int(number)).create_time(), UTC)
    except (psutil.NoSuchProcess, ValueError):
        return False
    return (run.created is None or run.created - SAME_START <= began) and began <= since + CLAIM

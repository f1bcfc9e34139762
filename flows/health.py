"""What can be wrong with the Prefect server that runs, and what of it is mended without asking.

`python -m flows.health` gives the findings as JSON, with `--fix` the sentences about what it mended; `mlim doctor` runs
it.
"""

import json
import shlex
import sys
import time
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flows.dead_runs import clear, dead_runs, free_slots, holders
from flows.engine import engine
from flows.login import login_file
from flows.server import ANSWER_SECONDS, GPU_LIMIT, ONE_AT_A_TIME, POOL, PORT
from mlim.failures import exit_code_of
from mlim.findings import Finding

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SERVER, LIMIT, RUNS, WORKER, DEPLOYMENTS = "Prefect", "GPU limit", "flow runs", "worker", "deployments"
FIX: Final = "mlim doctor --fix"
DIRECTORY: Final = "prefect.deployments.steps.set_working_directory"
PROJECT, PIPELINE = "prefect.yaml", "pipeline/local"
SETTLE_SECONDS: Final = 3.0  # between taking a slot and saying so


def main() -> int:
    """Examine the server of PREFECT_API_URL, or mend it."""
    return exit_code_of(_mend_here if "--fix" in sys.argv else _examine_here)


def _examine_here() -> None:
    print(json.dumps([finding._asdict() for finding in examine()]))


def _mend_here() -> None:
    print(json.dumps(mend()))


def examine() -> list[Finding]:
    """What is wrong with the server, its limit, runs, worker and deployments; what is right has a line too."""
    with engine() as address:
        from prefect.client.orchestration import get_client

        foreign = _foreign(address or "")
        if foreign is not None:
            return [foreign]
        with get_client(sync_client=True) as client:
            server = Finding(SERVER, True, address or "")
            return [server, *runs(client), *_limit(client), *worker(client, POOL), *_deployments(client, Path.cwd())]


def mend() -> list[str]:
    """End runs that are dead, make a missing limit and free its leaked slots; says what was done, a sentence each."""
    with engine() as address:
        from prefect.client.orchestration import get_client

        if _foreign(address or "") is not None:
            return []
        with get_client(sync_client=True) as client:
            return [*clear(client, dead_runs(client)), *mend_limit(client)]


def _foreign(address: str) -> Finding | None:
    """A server that is not Prefect's, or that our login does not open."""
    login = login_file()
    opened = f'export PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(login))})"'
    if _health(address) is not True:
        return Finding(
            SERVER,
            False,
            f"{address} answers, but not as a Prefect server; another program has the port",
            "unset PREFECT_API_URL",
        )
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            client.read_work_pools(limit=1)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != HTTPStatus.UNAUTHORIZED:
            raise
        return Finding(SERVER, False, f"{address} asks for another login; if it is yours, log in", opened)
    return None


def _health(address: str) -> object:
    """What the health check of a server says; None when it is no JSON."""
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        with ask(f"{address}/health", timeout=ANSWER_SECONDS) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def runs(client: "SyncPrefectClient") -> Iterator[Finding]:
    """Runs that are called running and whose processes are gone."""
    dead = dead_runs(client)
    names = ", ".join(str(run.name) for run in dead)
    if dead:
        yield Finding(RUNS, False, f"{len(dead)} are called running, and their processes are gone: {names}", FIX)
    else:
        yield Finding(RUNS, True, f"{_alive(client)} running, none of them dead")


def _limit(client: "SyncPrefectClient") -> Iterator[Finding]:
    """The limit of one training at a time on the accelerator: whether it is there, and who has its slots."""
    slots, holding = _taken(client)
    if slots is None:
        yield Finding(
            LIMIT,
            False,
            f"`{GPU_LIMIT}` is missing: trainings do not wait for each other",
            f"prefect gcl create {GPU_LIMIT} --limit {ONE_AT_A_TIME}",
        )
    elif slots > holding:
        yield Finding(
            LIMIT,
            False,
            f"{slots} slots of `{GPU_LIMIT}` are taken and {holding} runs hold one: the next training waits for ever",
            f"prefect gcl update {GPU_LIMIT} --active-slots {holding}",
        )
    else:
        yield Finding(LIMIT, True, f"`{GPU_LIMIT}`: {slots} slots taken by {holding} runs")


def mend_limit(client: "SyncPrefectClient") -> list[str]:
    """Make the limit if it is missing, else free the slots whose runs have ended and those of no run at all.

    Says what was done.
    """
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    from flows.set_up import make_limit

    if _slots(client) is None:
        make_limit(client)
        return [f"the limit `{GPU_LIMIT}` was missing and is there: {ONE_AT_A_TIME} training at a time"]
    said = free_slots(client, GPU_LIMIT)
    slots, holding = _taken(client)
    if slots is not None and slots > holding:  # taken without a lease, or its lease is lost
        client.update_global_concurrency_limit(GPU_LIMIT, GlobalConcurrencyLimitUpdate(active_slots=holding))
        said.append(f"{slots - holding} slots of the limit `{GPU_LIMIT}` were held by nobody and are free")
    return said


def _taken(client: "SyncPrefectClient") -> tuple[int | None, int]:
    """How many slots of the limit are taken, and how many living runs say that they hold one.

    A run says so just after it got its slot, and stops saying so just before it gives it back: what does not fit is
    looked at again.
    """
    for wait in (SETTLE_SECONDS, 0):
        dead = {run.id for run in dead_runs(client)}
        slots, holding = _slots(client), sum(run.id not in dead for run in holders(client, GPU_LIMIT))
        if slots is None or slots <= holding:
            break
        time.sleep(wait)
    return slots, holding


def _slots(client: "SyncPrefectClient") -> int | None:
    """How many slots of the limit are taken; None when there is no limit."""
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots
    except ObjectNotFound:
        return None


def _alive(client: "SyncPrefectClient") -> int:
    """How many runs may hold a slot: those under way that no other run called, without the dead ones."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterParentTaskRunId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    under_way = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
    roots = FlowRunFilter(
        state=FlowRunFilterState(type=under_way), parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True)
    )
    found = {run.id for run in client.read_flow_runs(flow_run_filter=roots)}
    return len(found - {run.id for run in dead_runs(client)})


def worker(client: "SyncPrefectClient", pool: str) -> Iterator[Finding]:
    """Whether somebody takes the runs of a work pool."""
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    try:
        paused = client.read_work_pool(pool).is_paused
    except ObjectNotFound:
        yield Finding(
            WORKER, False, f"the work pool `{pool}` is missing", f"prefect work-pool create {pool} --type process"
        )
        return
    online = [one.name for one in client.read_workers_for_work_pool(pool) if one.status == WorkerStatus.ONLINE]
    if paused:
        yield Finding(
            WORKER, False, f"the work pool `{pool}` is paused: no run starts", f"prefect work-pool resume {pool}"
        )
    elif online:
        yield Finding(WORKER, True, f"{', '.join(online)} of the work pool `{pool}`")
    else:
        yield Finding(
            WORKER,
            False,
            f"nobody takes the runs of the work pool `{pool}`: they stay Scheduled",
            f"prefect worker start --pool {pool}",
        )


def _deployments(client: "SyncPrefectClient", project: Path) -> Iterator[Finding]:
    """Whether a started deployment works in this project, where the folder is one."""
    from prefect.exceptions import ObjectNotFound

    if not (project / PROJECT).is_file():
        return
    try:
        steps = client.read_deployment_by_name(PIPELINE).pull_steps or []
    except ObjectNotFound:
        deploy = f"MLIM_ROOT={shlex.quote(str(project))} prefect --no-prompt deploy --all"
        yield Finding(DEPLOYMENTS, False, f"`{PIPELINE}` is missing", deploy)
        return
    places = [Path(step[DIRECTORY]["directory"]) for step in steps if DIRECTORY in step]
    other = next((place for place in places if place.resolve() != project.resolve()), None)
    if other is None:
        yield Finding(DEPLOYMENTS, True, f"`{PIPELINE}` and the others of {PROJECT}")
    else:
        own = f"PREFECT_HOME={shlex.quote(str(Path.home() / f'.prefect-{project.name}'))}"
        yield Finding(
            DEPLOYMENTS,
            False,
            f"they work in {other}, not here: the server is another project's",
            f"{own} make serve-prefect PORT={int(PORT) + 1}",
        )


if __name__ == "__main__":
    sys.exit(main())

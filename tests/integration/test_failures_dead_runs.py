"""What a machine that went down has left on Prefect's server: runs that nobody runs, and a slot one of them had."""

import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from flows.login import login
from flows.server import GPU_LIMIT, POOL, _listening, _server, client_environment
from flows.supervised import Supervised, start
from tests.integration.conftest import free_port
from tests.prefect_service import wait_until

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SERVER_SECONDS = 600
NOBODY = 1 << 22  # above the largest number of a process


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The server of `make serve-prefect` alone, without a worker: the environment of its clients."""
    from prefect.context import refresh_global_settings_context

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    refresh_global_settings_context()
    port, secret = free_port(), login(tmp_path / "login")
    environment = client_environment(port, secret, tmp_path)
    with (
        _listening(port) as listening,
        Supervised("server", lambda: _server(listening, environment, tmp_path / "log")) as running,
    ):
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        ask(f"{environment['PREFECT_API_URL']}/health", timeout=SERVER_SECONDS).close()
        assert not running.has_ended
        yield environment
    monkeypatch.undo()
    refresh_global_settings_context()


@pytest.fixture
def api(server: dict[str, str]) -> "Iterator[SyncPrefectClient]":
    """A client; a busy machine answers late, and a question that is repeated would take a second slot."""
    from prefect.client.orchestration import SyncPrefectClient

    settings, secret = {"trust_env": False, "timeout": SERVER_SECONDS}, server["PREFECT_API_AUTH_STRING"]
    with SyncPrefectClient(server["PREFECT_API_URL"], auth_string=secret, httpx_settings=settings) as client:
        yield client


def test_dead_runs_are_crashed_and_their_slot_is_free(api: "SyncPrefectClient") -> None:
    """And `mlim doctor` says before that something is wrong, and after that nothing is."""
    from prefect import flow, task
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.client.schemas.objects import ConcurrencyLeaseHolder
    from prefect.states import Cancelling, Running

    from flows import health
    from flows.dead_runs import ADVICE, MACHINE, PROCESS, STARTED, clear, dead_runs, free_slots

    @flow(name="pretrain")
    def trains() -> None: ...

    @task
    def stage() -> None: ...

    ours = {PROCESS: os.getpid(), STARTED: psutil.Process().create_time(), MACHINE: socket.gethostname()}
    alive, dead, cancelled = (
        api.create_flow_run(trains, state=state) for state in (Running(), Running(), Cancelling())
    )
    for run, labels in ((alive, ours), (dead, {**ours, PROCESS: NOBODY}), (cancelled, {**ours, STARTED: 1.0})):
        api.update_flow_run_labels(run.id, labels)
    under_way = api.create_task_run(stage, dead.id, "0", state=Running())
    below = api.create_flow_run(trains, state=Running(), parent_task_run_id=under_way.id)
    api.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=1))

    def take(run_id: object) -> None:
        holder = ConcurrencyLeaseHolder(type="flow_run", id=run_id)
        api.increment_concurrency_slots_with_lease([GPU_LIMIT], 1, "concurrency", lease_duration=300, holder=holder)

    take(dead.id)
    found = dead_runs(api)
    assert {run.id for run in found} == {dead.id, cancelled.id, below.id}
    (bad,) = health.runs(api)
    assert (bad.fine, bad.command) == (False, health.FIX)
    assert all(str(run.name) in bad.detail for run in found)
    said = [*clear(api, found), *free_slots(api, GPU_LIMIT)]
    states = {run.id: api.read_flow_run(run.id).state for run in (alive, dead, cancelled, below)}
    assert [states[run.id].name for run in (alive, dead, cancelled, below)] == [
        "Running",
        "Crashed",
        "Cancelled",
        "Crashed",
    ]
    assert ADVICE in str(states[dead.id].message)
    assert [task.state.name for task in api.read_task_runs()] == ["Crashed"]
    assert sum("its process is gone" in sentence for sentence in said) == 3
    assert said[-1] == f"a slot of the limit `{GPU_LIMIT}` was held by a run that has ended; it is free now"
    assert api.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 0

    (good,) = health.runs(api)
    assert (good.fine, good.detail) == (True, "1 running, none of them dead")

    take(alive.id)
    assert dead_runs(api) == []
    assert free_slots(api, GPU_LIMIT) == []  # who lives keeps it
    assert health.mend_limit(api) == []
    assert api.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 1


def test_doctor_says_that_nobody_takes_runs(api: "SyncPrefectClient", server: dict[str, str]) -> None:
    """A worker that was killed is missed once it should have spoken; a paused pool at once."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate

    from flows import health

    def bad() -> str:
        (found,) = health.worker(api, POOL)
        return "" if found.fine else found.command

    assert bad() == f"prefect work-pool create {POOL} --type process"
    api.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    assert bad() == f"prefect worker start --pool {POOL}"
    speaks_often = {"PREFECT_WORKER_HEARTBEAT_SECONDS": "1", "PREFECT_WORKER_QUERY_SECONDS": "1"}
    worker = start([sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL], {**server, **speaks_often})
    wait_until(lambda: not bad(), SERVER_SECONDS)
    worker.kill()
    worker.wait()
    wait_until(bad, SERVER_SECONDS)
    assert bad() == f"prefect worker start --pool {POOL}"
    api.update_work_pool(POOL, WorkPoolUpdate(is_paused=True))
    assert bad() == f"prefect work-pool resume {POOL}"

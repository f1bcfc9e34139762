"""What a machine that went down has left on Prefect's server: runs that nobody runs, and a slot one of them had."""

import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from flows.login import login
from flows.server import ADDRESS, GPU_LIMIT, _listening, _server, client_environment
from flows.supervised import Supervised
from tests.integration.conftest import free_port

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SERVER_SECONDS = 600
NOBODY = 1 << 22  # above the largest number of a process


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[SyncPrefectClient]":
    """The server of `make serve-prefect` alone, without a worker."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.context import refresh_global_settings_context

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    refresh_global_settings_context()
    port, secret = free_port(), login(tmp_path / "login")
    environment = client_environment(port, secret, tmp_path)
    with (
        _listening(port) as listening,
        Supervised("server", lambda: _server(listening, environment, tmp_path / "log")) as server,
    ):
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        ask(f"http://127.0.0.1:{port}/api/health", timeout=SERVER_SECONDS).close()
        assert not server.has_ended
        # a busy machine answers late, and a question that is repeated would take a second slot
        settings = {"trust_env": False, "timeout": SERVER_SECONDS}
        with SyncPrefectClient(f"http://{ADDRESS}:{port}/api", auth_string=secret, httpx_settings=settings) as client:
            yield client
    monkeypatch.undo()
    refresh_global_settings_context()


def test_dead_runs_are_crashed_and_their_slot_is_free(api: "SyncPrefectClient") -> None:
    from prefect import flow, task
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.client.schemas.objects import ConcurrencyLeaseHolder
    from prefect.states import Cancelling, Running

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

    take(alive.id)
    assert dead_runs(api) == []
    assert free_slots(api, GPU_LIMIT) == []  # who lives keeps it
    assert api.read_global_concurrency_limit_by_name(GPU_LIMIT).active_slots == 1

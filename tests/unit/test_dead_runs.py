"""Which runs are dead, as far as their labels and this machine's processes say."""

import os
import socket
from datetime import UTC, datetime
from uuid import uuid4

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.dead_runs import CLAIM, MACHINE, PROCESS, STARTED, is_dead

STATE = State(type=StateType.RUNNING)
OURS = {PROCESS: os.getpid(), STARTED: psutil.Process().create_time(), MACHINE: socket.gethostname()}
LONG_AGO = datetime.now(UTC) - 2000 * CLAIM  # before this test run


@pytest.mark.parametrize(
    ("labels", "here", "dead"),
    [
        (OURS, True, False),
        ({**OURS, STARTED: 1.0}, False, True),  # another process has its number now
        ({**OURS, PROCESS: 1 << 22}, False, True),  # above the largest number there is
        ({**OURS, MACHINE: "elsewhere"}, False, False),  # nobody here can see it
        ({**OURS, MACHINE: "elsewhere"}, True, True),
        ({}, True, False),  # not one of ours
    ],
)
def test_a_run_is_dead_when_its_process_is_gone(labels: dict[str, object], here: bool, dead: bool) -> None:
    run = FlowRun(flow_id=uuid4(), labels=labels, state=STATE)
    assert is_dead(run, here) is dead


@pytest.mark.parametrize(("since", "dead"), [(datetime.now(UTC), False), (LONG_AGO, True)])
def test_a_run_that_a_worker_claimed_long_ago_is_dead(since: datetime, dead: bool) -> None:
    state = State(type=StateType.PENDING, timestamp=since)
    assert is_dead(FlowRun(flow_id=uuid4(), work_pool_name="mlim", state=state), True) is dead


@pytest.mark.parametrize(("since", "dead"), [(datetime.now(UTC), False), (LONG_AGO, True)])
def test_a_process_that_began_long_after_its_run_is_another_one(since: datetime, dead: bool) -> None:
    state = State(type=StateType.RUNNING, timestamp=since)
    run = FlowRun(flow_id=uuid4(), work_pool_name="mlim", infrastructure_pid=str(os.getpid()), state=state)
    assert is_dead(run, here=True) is dead
    assert not is_dead(run, here=False)

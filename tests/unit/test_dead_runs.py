"""Which runs are dead, as far as their labels and this machine's processes say."""

import os
import socket
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.dead_runs import CLAIM, MACHINE, PROCESS, STARTED, birth, is_dead

STATE = State(type=StateType.RUNNING)
OURS = {PROCESS: os.getpid(), STARTED: birth(os.getpid()), MACHINE: socket.gethostname()}
LONG = 2000 * CLAIM


@pytest.mark.parametrize(
    ("labels", "here", "dead"),
    [
        (OURS, True, False),
        ({**OURS, STARTED: f"{birth(os.getpid())}0"}, False, True),  # another process has its number now
        ({**OURS, STARTED: psutil.Process().create_time()}, True, False),  # of an earlier version
        ({**OURS, STARTED: 1.0}, False, True),
        ({**OURS, PROCESS: 1 << 22}, False, True),  # above the largest number there is
        ({**OURS, MACHINE: "elsewhere"}, False, False),  # nobody here can see it
        ({**OURS, MACHINE: "elsewhere"}, True, True),
        ({}, True, False),  # not one of ours
    ],
)
def test_a_run_is_dead_when_its_process_is_gone(labels: dict[str, object], here: bool, dead: bool) -> None:
    run = FlowRun(flow_id=uuid4(), labels=labels, state=STATE)
    assert is_dead(run, here) is dead


@pytest.mark.parametrize(("age", "dead"), [(timedelta(), False), (LONG, True)])
def test_a_run_that_a_worker_claimed_long_ago_is_dead(age: timedelta, dead: bool) -> None:
    state = State(type=StateType.PENDING, timestamp=datetime.now(UTC) - age)
    assert is_dead(FlowRun(flow_id=uuid4(), work_pool_name="mlim", state=state), True) is dead


@pytest.mark.parametrize(("age", "dead"), [(timedelta(), False), (LONG, True)])
def test_a_process_that_began_long_after_its_run_is_another_one(age: timedelta, dead: bool) -> None:
    state = State(type=StateType.RUNNING, timestamp=datetime.now(UTC) - age)
    run = FlowRun(flow_id=uuid4(), work_pool_name="mlim", infrastructure_pid=str(os.getpid()), state=state)
    assert is_dead(run, here=True) is dead
    assert not is_dead(run, here=False)


@pytest.mark.skipif(isinstance(birth(os.getpid()), float), reason="no /proc: processes are told apart by the clock")
def test_a_step_of_the_clock_makes_no_run_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux the time at which a process began is counted from the boot, whose time moves with the clock."""
    began = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: began + 3600)
    assert not is_dead(FlowRun(flow_id=uuid4(), labels=OURS, state=STATE), here=True)

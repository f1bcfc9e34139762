"""What happens when a part of `make serve-prefect` dies while a flow trains: kill -9, Ctrl-C, a machine that restarts.

One service after the other on the same data, as a person would live through it; minutes.
"""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from mlim.recipe import Recipe
from mlim.workspace import Workspace
from tests.prefect_service import RUN_SECONDS, SLOT_SECONDS, PrefectService, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]

LONG = ("pretrain.steps=1000000", "pretrain.checkpoint.every_steps=1000000", "pretrain.validate_every=1000000")
SAVE_SECONDS = 300
ADVICE = "a training goes on from its last checkpoint"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe, tiny_workspace: Workspace
) -> Iterator[PrefectService]:
    with PrefectService(tmp_path_factory.mktemp("service"), tiny_recipe, tiny_workspace) as running:
        yield running


def ended(service: PrefectService, run_id: str) -> str:
    """The name of the state that a run ended in."""
    final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    return str(
        wait_until(lambda: (run := service.run(run_id))["state_type"] in final and run["state_type"], RUN_SECONDS)
    )


def gone(*processes: psutil.Process) -> None:
    assert not psutil.wait_procs(processes, timeout=SAVE_SECONDS)[1]


def flow_of(service: PrefectService, run_id: str) -> psutil.Process:
    return psutil.Process(int(service.run(run_id)["infrastructure_pid"]))


def slot_is_free(service: PrefectService) -> None:
    began = time.monotonic()
    wait_until(lambda: service.slots == 0, SLOT_SECONDS)
    print(f"the slot was free after {time.monotonic() - began:.1f} s")


def test_a_flow_that_is_killed(service: PrefectService) -> None:
    run_id = service.train("flow", *LONG)
    trainer = service.trainer("flow")
    assert service.slots == 1
    flow_of(service, run_id).kill()
    slot_is_free(service)
    gone(trainer)
    assert len(service.checkpoints("flow")) == 1
    assert ended(service, run_id) == "CRASHED"
    wait_until(lambda: ADVICE in service.logs(run_id), RUN_SECONDS)


def test_a_worker_that_is_killed(service: PrefectService) -> None:
    """And the run goes on from the checkpoint of the one before."""
    run_id = service.train("flow", *LONG)
    trainer = service.trainer("flow")
    worker = service.process_of("worker")
    worker.kill()
    gone(trainer)
    assert ended(service, run_id) == "CRASHED"
    slot_is_free(service)
    assert len(service.checkpoints("flow")) == 2
    assert "continuing from the checkpoint of step" in service.log("flow")
    assert "Prefect's worker ended (SIGKILL) and is started again" in service.said


def test_a_server_that_is_killed_and_a_run_that_waits(service: PrefectService) -> None:
    """The worker of the last test is a new one, and takes runs; a second pipeline says who has the slot."""
    run_id = service.train("server", *LONG)
    trainer = service.trainer("server")
    waiting = service.train("waiting", "pretrain.steps=4")
    name = service.run(run_id)["name"]
    wait_until(lambda: f"waiting for the slot of the limit `gpu`: run {name}" in service.logs(waiting), RUN_SECONDS)
    same = service.train("server", "pretrain.steps=4")
    assert ended(service, same) == "FAILED"
    assert "is writing there, and one command at a time may" in service.run(same)["state"]["message"]

    service.process_of("flows.server_process").kill()
    wait_until(lambda: "Prefect's server ended (SIGKILL) and is started again" in service.said, RUN_SECONDS)
    assert service.run(run_id)["state_type"] == "RUNNING"
    assert service.slots == 1
    assert trainer.is_running()
    trainer.terminate()  # as an operator would end it by hand: it saves and says so
    assert ended(service, run_id) == "FAILED"
    assert ended(service, waiting) == "COMPLETED"
    slot_is_free(service)


def test_ctrl_c(service: PrefectService) -> None:
    run_id = service.train("ctrl-c", *LONG)
    trainer = service.trainer("ctrl-c")
    flow = flow_of(service, run_id)
    began = time.monotonic()
    os.killpg(service.script.pid, signal.SIGINT)  # a terminal sends it to all in the foreground
    os.killpg(service.script.pid, signal.SIGINT)
    service.stop(signal.SIGINT)
    took = time.monotonic() - began
    gone(trainer, flow)
    assert service.script.returncode == 0
    assert len(service.checkpoints("ctrl-c")) == 1
    assert "stopping 1 runs: trainings save a checkpoint" in service.said
    service.start()
    assert (service.run(run_id)["state_type"], service.slots) == ("CANCELLED", 0)
    print(f"ended within {took:.1f} s")


def test_everything_is_killed(service: PrefectService) -> None:
    """As a machine that restarts: nobody says anything any more, and the next start finds out."""
    saves = (*LONG, "pretrain.checkpoint.every_steps=100")
    run_id = service.train("all", *saves)
    trainer = service.trainer("all")
    wait_until(lambda: service.checkpoints("all"), RUN_SECONDS)
    everyone = [trainer, flow_of(service, run_id), *psutil.Process(service.script.pid).children(), service.script]
    for process in everyone:
        process.send_signal(signal.SIGSTOP)  # all at once: none of them may notice that another is gone
    for process in everyone:
        process.kill()
    service.script.wait()
    gone(*everyone[:-1])
    service.start()
    assert "its process is gone, so it is Crashed now" in service.said
    assert "a slot of the limit `gpu` was held by a run that has ended; it is free now" in service.said
    assert (service.run(run_id)["state_type"], service.slots) == ("CRASHED", 0)
    assert ADVICE in service.run(run_id)["state"]["message"]
    service.train("all", *saves)
    service.trainer("all")
    assert "continuing from the checkpoint of step" in service.log("all")

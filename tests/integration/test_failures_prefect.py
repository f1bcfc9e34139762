"""What happens when a part of `make serve-prefect` dies while a flow trains: kill -9, Ctrl-C, a machine that restarts.

One service after the other on the same data, as a person would live through it; minutes.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
import pytest

from mlim.recipe import Recipe, load_recipe
from mlim.recipe.tracking import TrackingConfig
from mlim.tracking import all_runs, client
from mlim.workspace import Workspace
from mlim.writer import only_writer
from tests.mlflow_server import MlflowServer
from tests.prefect_service import RUN_SECONDS, SLOT_SECONDS, PrefectService, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]

LONG = ("pretrain.steps=1000000", "pretrain.checkpoint.every_steps=1000000", "pretrain.validate_every=1000000")
LONG_FINETUNING = ("finetune.steps=1000000", "finetune.checkpoint.every_steps=20", "finetune.validate_every=1000000")
SAVE_SECONDS = 300
SLOT, TRAINING = "its slot is free", "its training has saved and ended"
Timed = Callable[[str], AbstractContextManager[None]]
ADVICE = "a training goes on from its last checkpoint"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Recipe, tiny_workspace: Workspace
) -> Iterator[PrefectService]:
    with PrefectService(tmp_path_factory.mktemp("service"), tiny_recipe, tiny_workspace) as running:
        yield running


def gone(*processes: psutil.Process) -> None:
    assert not psutil.wait_procs(processes, timeout=SAVE_SECONDS)[1]


def flow_of(service: PrefectService, run_id: str) -> psutil.Process:
    return psutil.Process(int(service.run(run_id)["infrastructure_pid"]))


@pytest.fixture
def timed(record_property: Callable[[str, object], None]) -> Timed:
    """Times what happens in a block; `benchmarks/recovery.py` shows the seconds, and no test asserts them."""

    @contextmanager
    def time_block(what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        record_property(what, f"{time.monotonic() - began:.1f}")

    return time_block


def slot_is_free(service: PrefectService) -> None:
    wait_until(lambda: service.slots == 0, SLOT_SECONDS)


def test_a_flow_that_is_killed(service: PrefectService, timed: Timed) -> None:
    run_id = service.train("flow", *LONG)
    trainer = service.trainer("flow")
    assert service.slots == 1
    flow_of(service, run_id).kill()
    with timed(SLOT):
        slot_is_free(service)
    gone(trainer)
    assert len(service.checkpoints("flow")) == 1
    assert service.ended(run_id) == "CRASHED"
    wait_until(lambda: ADVICE in service.logs(run_id), RUN_SECONDS)


def test_a_worker_that_is_killed(service: PrefectService, timed: Timed) -> None:
    """And the run goes on from the checkpoint of the one before."""
    run_id = service.train("flow", *LONG)
    trainer = service.trainer("flow")
    worker = service.process_of("worker")
    worker.kill()
    with timed(TRAINING):
        gone(trainer)
    with timed(SLOT):
        slot_is_free(service)
    assert service.ended(run_id) == "CRASHED"
    assert len(service.checkpoints("flow")) == 2
    assert "continuing from the checkpoint of step" in service.log("flow")
    assert "Prefect's worker ended (SIGKILL) and is started again" in service.said


def test_a_server_that_is_killed_and_a_run_that_waits(service: PrefectService, timed: Timed) -> None:
    """The worker of the last test is a new one, and takes runs; a second pipeline says who has the slot."""
    run_id = service.train("server", *LONG)
    trainer = service.trainer("server")
    waiting = service.train("waiting", "pretrain.steps=4")
    name = service.run(run_id)["name"]
    wait_until(lambda: f"waiting for the slot of the limit `gpu`: run {name}" in service.logs(waiting), RUN_SECONDS)
    same = service.train("server", "pretrain.steps=4")
    assert service.ended(same) == "FAILED"
    assert "is writing there, and one command at a time may" in service.run(same)["state"]["message"]

    service.process_of("flows.server_process").kill()
    with timed("the server answers again"):
        wait_until(lambda: "Prefect's server ended (SIGKILL) and is started again" in service.said, RUN_SECONDS)
        assert service.run(run_id)["state_type"] == "RUNNING"
    assert service.slots == 1
    assert trainer.is_running()
    trainer.terminate()  # as an operator would end it by hand: it saves and says so
    assert service.ended(run_id) == "FAILED"
    assert service.ended(waiting) == "COMPLETED"
    with timed("after both runs its slot is free"):
        slot_is_free(service)


def test_ctrl_c(service: PrefectService, timed: Timed) -> None:
    run_id = service.train("ctrl-c", *LONG)
    trainer = service.trainer("ctrl-c")
    flow = flow_of(service, run_id)
    with timed("training, flow and server have ended"):
        os.killpg(service.script.pid, signal.SIGINT)  # a terminal sends it to all in the foreground
        os.killpg(service.script.pid, signal.SIGINT)
        service.stop(signal.SIGINT)
        gone(trainer, flow)
    assert service.script.returncode == 0
    assert len(service.checkpoints("ctrl-c")) == 1
    assert "stopping 1 runs: trainings save a checkpoint" in service.said
    service.start()
    assert (service.run(run_id)["state_type"], service.slots) == ("CANCELLED", 0)


def test_everything_is_killed(service: PrefectService, tmp_path: Path, timed: Timed) -> None:
    """As a machine that restarts: nobody says anything any more, and the next start finds out.

    The pre-training is over, the fine-tuning has a checkpoint; both are tracked on a server that goes down too.
    """
    with MlflowServer(tmp_path) as mlflow:
        settings = (*LONG_FINETUNING, f"tracking.uri={mlflow.address}")
        assert service.ended(service.train("all", *settings)) == "COMPLETED"
        run_id = service.train("all", *settings, flow="finetune")
        trainer = service.trainer("all", "finetune")
        wait_until(lambda: service.checkpoints("all"), RUN_SECONDS)
        script = psutil.Process(service.script.pid)
        below = script.children(recursive=True)
        kill_at_once(trainer, flow_of(service, run_id), *script.children(), script, *mlflow.processes)
        service.script.wait()
        with timed("processes and locks are gone"):
            gone(*below)
            with only_writer(service.work("all"), load_recipe("demo").record, "whoever comes next"):
                pass

        mlflow.start()
        before = len(service.said)
        with timed("the next `make serve-prefect` is ready, with the slot free"):
            service.start()
        said = service.said[before:].partition("Prefect is ready")[0]
        assert "its process is gone, so it is Crashed now" in said
        assert "a slot of the limit `gpu` was held by a run that has ended; it is free now" in said
        assert (service.run(run_id)["state_type"], service.slots) == ("CRASHED", 0)
        assert ADVICE in service.run(run_id)["state"]["message"]

        assert service.ended(service.train("all", *settings)) == "COMPLETED"
        again = service.train("all", *settings, flow="finetune")
        service.trainer("all", "finetune")
        assert "finished already with these settings" in service.log("all", "pretrain")
        assert "continuing from the checkpoint of step" in service.log("all", "finetune")
        assert "waiting for" not in service.logs(again)
        assert statuses(mlflow) == {"pretrain": ["FINISHED"], "finetune": ["KILLED", "RUNNING"]}
        service.stop(signal.SIGTERM)


def kill_at_once(*processes: psutil.Process) -> None:
    """None of them notices that another one is gone."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    for process in processes:
        process.kill()


def statuses(mlflow: MlflowServer) -> dict[str, list[str]]:
    """The statuses of all trainings' runs by stage, the oldest first."""
    store, found = client(TrackingConfig(uri=mlflow.address)), dict[str, list[str]]()
    experiments = [each.experiment_id for each in store.search_experiments()]
    for run in sorted(all_runs(store, experiments, ""), key=lambda run: int(run.info.start_time)):
        if (stage := run.data.tags["mlim.stage"]) != "pipeline":
            found.setdefault(stage, []).append(run.info.status)
    return found

"""`make serve-prefect` set up in other ways: its history in PostgreSQL, its runs by the example of a work pool."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mlim.recipe import Recipe
from mlim.workspace import Workspace
from tests.integration.conftest import ROOT
from tests.postgres import Postgres
from tests.prefect_service import PrefectService

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SHORT = "pretrain.steps=4"
LONG = ("pretrain.steps=1000000", "pretrain.checkpoint.every_steps=1000000", "pretrain.validate_every=1000000")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


def test_the_server_keeps_its_runs_in_postgresql(
    postgres: Postgres, tmp_path: Path, tiny_recipe: Recipe, tiny_workspace: Workspace
) -> None:
    """Of a deployment that runs, and of what a restart finds; without a sqlite file, and no run knows the password."""
    database = f"postgresql+asyncpg://{postgres.create('prefect')}"
    settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database}
    with PrefectService(tmp_path, tiny_recipe, tiny_workspace, **settings) as service:
        run_id = service.train("work", SHORT)
        assert service.ended(run_id) == "COMPLETED"
        assert service.slots == 0
        service.stop(signal.SIGTERM)
        assert not list((tmp_path / "home").glob("*.db"))
        service.start()
        assert service.run(run_id)["state_type"] == "COMPLETED"
        words = [*service.process_of("worker").environ().values(), service.said, service.logs(run_id)]
        assert not [each for each in words if postgres.password in each]


def test_a_pool_of_the_example_runs_flows(tmp_path: Path, tiny_recipe: Recipe, tiny_workspace: Workspace) -> None:
    """With variables of its own, and without its words in the worker's log; it can be cancelled as any other."""
    with PrefectService(tmp_path, tiny_recipe, tiny_workspace) as service:
        service.prefect("work-pool", "update", "mlim", "--base-job-template", str(ROOT / "deployments/process.json"))
        given = json.loads((ROOT / "deployments/process.json").read_text())
        assert service.ask("work_pools/mlim")["base_job_template"]["job_configuration"] == given["job_configuration"]
        run_id = service.train("work", *LONG, variables={"env": {"MLIM_EXAMPLE": "1"}, "stream_output": False})
        trainer = service.trainer("work")
        assert trainer.environ()["MLIM_EXAMPLE"] == "1"
        flow = psutil.Process(int(service.run(run_id)["infrastructure_pid"]))
        assert flow.cwd() == str(tmp_path)
        assert "pretrain: recipe tiny" in service.logs(run_id)
        assert "pretrain: recipe tiny" not in service.said
        service.prefect("flow-run", "cancel", run_id)
        assert service.ended(run_id) == "CANCELLED"
        assert not psutil.wait_procs([trainer, flow], timeout=60)[1]

"""Several users: MLflow's runs and models move from their file into PostgreSQL and are served from there."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from mlim.registry import Registry
from mlim.tracking import all_runs, client, stage_run
from mlim.versions import Lineage
from mlim.workspace import Workspace
from tests.commands import call as mlim
from tests.mlflow_server import MlflowServer
from tests.postgres import Postgres
from tests.registry_room import tracked_at

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.integration

LINEAGE = Lineage("c0ffee", False, "5eed.dir", "passed")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="the extra [postgresql] is not installed")
    with Postgres() as running:
        yield running


def runs_of(store: "MlflowClient") -> list[tuple[str, str, dict[str, float]]]:
    """Id, status and figures of every run of every experiment."""
    experiments = [each.experiment_id for each in store.search_experiments()]
    found = all_runs(store, experiments, "")
    return sorted((run.info.run_id, run.info.status, dict(run.data.metrics)) for run in found)


def test_runs_and_models_move_from_the_file_to_a_server_of_several_users(
    postgres, promoted, tmp_path, monkeypatch, capsys
):
    """All of it arrives, versions have files that the server hands out, and new runs continue the numbers."""
    here, _ = promoted
    before, store = client(here.tracking), tmp_path / "promoted" / "own.db"
    target = f"postgresql://{postgres.create('runs')}"
    assert mlim(monkeypatch, "copy-runs", str(store), target) == 2
    assert "run `mlflow db upgrade" in capsys.readouterr().err
    subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", target], check=True, capture_output=True)
    assert mlim(monkeypatch, "copy-runs", str(store), target, "--served", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["runs"] == len(runs_of(before)) > 0
    assert mlim(monkeypatch, "copy-runs", str(store), target) == 2
    refused = capsys.readouterr().err
    assert "is in use" in refused
    assert postgres.password not in said.err + refused
    with MlflowServer(tmp_path, target, store.parent / "mlruns") as server:
        recipe = tracked_at(here, server.address)
        after, registry = client(recipe.tracking), Registry(recipe.tracking)
        assert runs_of(after) == runs_of(before)
        assert registry.roles.holder("champion") == "1"
        registry.check("1")  # every file, as the server hands it out
        with stage_run(recipe.record, Workspace(tmp_path / "work"), "probe", "probe", LINEAGE) as run:
            run.metric("figure", 1.0)
        assert after.get_run(run.id).data.metrics == {"figure": 1.0}
        known = {each.experiment_id for each in before.search_experiments()}
        assert after.create_experiment("another") not in known

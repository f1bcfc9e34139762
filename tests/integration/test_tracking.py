"""Runs in a real sqlite store: parents, children, figures, endings."""

import re
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Run

from mlim.errors import InputError, MlimError
from mlim.files import read_json
from mlim.outbox import Outbox
from mlim.recipe import Recipe, load_recipe
from mlim.tracking import (
    METRICS_PER_CALL,
    PARAMETER_CHARACTERS,
    check_server,
    client,
    deliver_left,
    flatten,
    is_kept,
    stage_parameters,
    stage_run,
    tracking_uri,
    without_password,
)
from mlim.versions import UNKNOWN, Lineage
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

LINEAGE = Lineage("c0ffee", True, "5eed.dir", "passed", "1234", "data/catalog.yaml")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], str]) -> Recipe:
    uri = new_store(tmp_path_factory.mktemp("runs") / "runs.db")
    return load_recipe("demo", [f"tracking.uri={uri}", "tracking.timeout_seconds=0.5"])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


def with_uri(recipe: Recipe, uri: str | None) -> Recipe:
    return recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"uri": uri})})


def run_of(recipe: Recipe, run_id: str) -> Run:
    return client(recipe.tracking).get_run(run_id)


def parent_of(workspace: Workspace) -> str:
    return str(read_json(workspace.pipeline)["run_id"])


def test_the_default_store_lies_in_the_current_folder(recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(with_uri(recipe, None).tracking) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert tracking_uri(with_uri(recipe, "sqlite:///a/b.db").tracking) == f"sqlite:///{tmp_path / 'a' / 'b.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000/")
    assert tracking_uri(with_uri(recipe, None).tracking) == "http://127.0.0.1:5000"
    assert tracking_uri(with_uri(recipe, "http://other:1").tracking) == "http://other:1"


def test_a_run_tells_where_it_came_from(recipe, workspace):
    with stage_run(recipe.record, workspace, "finetune", "text-only-s0", LINEAGE) as run:
        run.log({"match": 0.5}, 1)
    child, parent = run_of(recipe, run.id), run_of(recipe, parent_of(workspace))
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    for tags in (child.data.tags, parent.data.tags):
        assert tags["mlim.commit"] == tags["mlflow.source.git.commit"] == "c0ffee"
        assert (tags["mlim.dirty"], tags["mlim.data_version"]) == ("true", "5eed.dir")
        assert (tags["mlim.validation"], tags["mlim.recipe"]) == ("passed", "demo")
    assert (child.data.tags["mlim.stage"], parent.data.tags["mlim.stage"]) == ("finetune", "pipeline")
    assert (child.info.run_name, child.info.status, parent.info.status) == (
        "finetune text-only-s0",
        "FINISHED",
        "FINISHED",
    )
    assert child.inputs.dataset_inputs[0].dataset.digest == "5eed.dir"


def test_parameters_are_the_recipe(recipe, workspace):
    with stage_run(recipe.record, workspace, "finetune", "no-mdo-s0", LINEAGE) as run:
        pass
    child, parent = run_of(recipe, run.id).data.params, run_of(recipe, parent_of(workspace)).data.params
    assert parent["pretrain.masking.mam.heavy_image.image"] == "0.8"
    assert parent.items() >= flatten(recipe.model_dump(mode="json")).items()
    assert child["finetune.optim.learning_rate"] == str(recipe.finetune.optim.learning_rate)
    assert (child["cell.mdo"], child["cell.pretraining"]) == ("false", "recon-mlm-mam")
    assert "pretrain.steps" not in child
    store = client(recipe.tracking)
    assert [entry.path for entry in store.list_artifacts(parent_of(workspace))] == ["recipe.yaml"]


def test_stages_of_one_pipeline_share_a_parent(recipe, workspace):
    early = Lineage("c0ffee", False, UNKNOWN, UNKNOWN)
    parents = []
    for stage, origin in (("ingest", early), ("pretrain", LINEAGE), ("pretrain", LINEAGE)):
        with stage_run(recipe.record, workspace, stage, stage, origin):
            parents.append(parent_of(workspace))
    assert len(set(parents)) == 1
    assert run_of(recipe, parents[0]).data.tags["mlim.data_version"] == "5eed.dir"


def test_the_page_of_a_parent_is_the_reports_once_there_is_one(recipe, workspace):
    """Later stages leave it alone; the experiment says what is in it."""
    early = Lineage("c0ffee", False, UNKNOWN, UNKNOWN)
    for stage, origin in (("ingest", early), ("probe", LINEAGE)):
        with stage_run(recipe.record, workspace, stage, stage, origin):
            parent = parent_of(workspace)
    assert run_of(recipe, parent).data.tags["mlflow.note.content"].endswith("on data `5eed.dir`")
    with stage_run(recipe.record, workspace, "report", "report", LINEAGE) as run:
        run.describe_pipeline("### Table 1")
    with stage_run(recipe.record, workspace, "match", "match", LINEAGE):
        pass
    assert run_of(recipe, parent).data.tags["mlflow.note.content"] == "### Table 1"
    experiment = client(recipe.tracking).get_experiment(read_json(workspace.pipeline)["experiment_id"])
    assert "one parent run" in experiment.tags["mlflow.note.content"]


def test_another_recipe_or_other_data_start_a_new_parent(recipe, workspace):
    others = [
        (recipe, LINEAGE),
        (recipe.model_copy(update={"seed": 5}), LINEAGE),
        (recipe, LINEAGE),
        (recipe, Lineage("c0ffee", True, "0ther.dir", "passed")),
    ]
    parents = []
    for changed, origin in others:
        with stage_run(changed.record, workspace, "probe", "probe", origin):
            parents.append(parent_of(workspace))
    assert len(set(parents)) == len(others)


def test_deleted_and_foreign_parents_are_replaced(recipe, workspace, tmp_path, new_store):
    with stage_run(recipe.record, workspace, "probe", "probe", LINEAGE):
        first = parent_of(workspace)
    client(recipe.tracking).delete_run(first)
    with stage_run(recipe.record, workspace, "probe", "probe", LINEAGE):
        second = parent_of(workspace)
    other = with_uri(recipe, new_store(tmp_path / "other.db"))
    with stage_run(other.record, workspace, "probe", "probe", LINEAGE):
        third = parent_of(workspace)
    assert len({first, second, third}) == 3


def test_every_figure_arrives_once_with_its_step(recipe, workspace):
    count = METRICS_PER_CALL + 7
    with stage_run(recipe.record, workspace, "pretrain", "x", LINEAGE) as run:
        for step in range(count):
            run.log({"recon": step / 2, "mlm": float(step)}, step)
        run.metric("pr_auc", 0.75)
        run.tag("note", "a word")
    store = client(recipe.tracking)
    for name, factor in (("recon", 0.5), ("mlm", 1.0)):
        history = {point.step: point.value for point in store.get_metric_history(run.id, name)}
        assert history == {step: step * factor for step in range(count)}
    assert run_of(recipe, run.id).data.metrics["pr_auc"] == 0.75
    assert run_of(recipe, run.id).data.tags["note"] == "a word"


def test_figures_arrive_while_the_run_is_open(recipe, workspace):
    with stage_run(recipe.record, workspace, "pretrain", "x", LINEAGE) as run:
        run.log({"mlm": 1.0}, 1)
        run.flush()
        assert run_of(recipe, run.id).data.metrics == {"mlm": 1.0}


def test_artifacts_are_files_and_folders(recipe, workspace, tmp_path):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.svg").write_text("<svg/>")
    (tmp_path / "table.csv").write_text("a\n")
    with stage_run(recipe.record, workspace, "probe", "probe", LINEAGE) as run:
        run.artifact(tmp_path / "plots", "figures")
        run.artifact(tmp_path / "table.csv")
    store = client(recipe.tracking)
    assert {entry.path for entry in store.list_artifacts(run.id)} == {"figures", "recipe.yaml", "table.csv"}
    assert [entry.path for entry in store.list_artifacts(run.id, "figures")] == ["figures/a.svg"]


class InterruptedTrainingError(MlimError):
    interrupted = True


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("bug"), "FAILED"),
        (MlimError("full disk"), "FAILED"),
        (InterruptedTrainingError("stopped"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_endings(recipe, workspace, error, status):
    opened = []

    def fail() -> None:
        with stage_run(recipe.record, workspace, "pretrain", "x", LINEAGE) as run:
            opened.append(run)
            run.log({"mlm": 1.0}, 1)
            raise error

    with pytest.raises(type(error)):
        fail()
    run = opened[0]
    assert run_of(recipe, run.id).info.status == status
    assert run_of(recipe, parent_of(workspace)).info.status == status
    assert run_of(recipe, run.id).data.metrics == {"mlm": 1.0}


def test_the_parent_runs_while_a_child_does(recipe, workspace):
    with stage_run(recipe.record, workspace, "pretrain", "a", LINEAGE):
        with stage_run(recipe.record, workspace, "pretrain", "b", LINEAGE):
            pass
        assert run_of(recipe, parent_of(workspace)).info.status == "RUNNING"
    assert run_of(recipe, parent_of(workspace)).info.status == "FINISHED"


def waiting(recipe: Recipe, workspace: Workspace, **operation: object) -> str:
    """A run that is open in the store, with an operation that waits for it; gives its id."""
    with pytest.raises(KeyboardInterrupt), stage_run(recipe.record, workspace, "probe", "probe", LINEAGE) as run:
        raise KeyboardInterrupt
    outbox = Outbox(workspace.outboxes / run.id)
    outbox.add({"run": run.id, "parent": parent_of(workspace), **operation}, None)
    outbox.close()
    return str(run.id)


def test_the_end_of_a_run_whose_parent_a_person_deleted_is_delivered(recipe, workspace):
    run_id = waiting(recipe, workspace, do="end", status="FINISHED", time=None)
    client(recipe.tracking).delete_run(parent_of(workspace))
    with stage_run(recipe.record, workspace, "probe", "probe", LINEAGE):
        pass
    assert run_of(recipe, run_id).info.status == "FINISHED"
    assert not list(workspace.outboxes.iterdir())


def test_what_a_store_refuses_for_good_holds_up_no_later_run(recipe, workspace, capfd):
    run_id = waiting(recipe, workspace, do="tag", key="", value="without a name")
    with stage_run(recipe.record, workspace, "probe", "probe", LINEAGE) as run:
        pass
    assert run_of(recipe, run.id).info.status == "FINISHED"
    said = capfd.readouterr().err
    assert said.count(f"run {run_id} stays incomplete") == 1
    (kept,) = (workspace.outboxes / "refused" / run_id).glob("*/operation.json")
    assert read_json(kept)["value"] == "without a name"
    assert deliver_left(recipe.tracking, workspace) == []


def test_a_result_is_kept_where_its_run_is_complete(recipe, workspace):
    """A training that was killed while its run got the last files is done again, from its last checkpoint."""
    run_id = waiting(recipe, workspace, do="tag", key="late", value="yes")
    assert run_of(recipe, run_id).info.status == "KILLED"
    assert not is_kept(recipe.record, workspace, run_id)
    assert run_of(recipe, run_id).data.tags["late"] == "yes"
    with stage_run(recipe.record, workspace, "probe", "probe", LINEAGE) as run:
        pass
    assert is_kept(recipe.record, workspace, run.id)
    assert not is_kept(recipe.record, workspace, None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("uri", ["ftp://host/x", "mlruns", "file:///tmp/mlruns", "sqlite://", "databricks"])
def test_addresses_of_another_kind_are_refused(recipe, uri):
    with pytest.raises(InputError, match=re.escape(uri)):
        check_server(with_uri(recipe, uri).tracking)


def test_an_unreachable_server_is_named_without_its_password(recipe):
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=r"cannot be reached within 0\.5 s") as caught:
        check_server(with_uri(recipe, f"http://me:secret@{address}").tracking)
    assert address in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_port_that_is_no_number_is_refused(recipe):
    with pytest.raises(InputError, match=re.escape("http://127.0.0.1:port")):
        check_server(with_uri(recipe, "http://127.0.0.1:port").tracking)


class OtherSite(BaseHTTPRequestHandler):
    """A web server that is not MLflow."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *arguments: object) -> None:
        pass


def test_another_web_server_is_refused(recipe):
    with HTTPServer(("127.0.0.1", 0), OtherSite) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match="not as an MLflow server"):
            check_server(with_uri(recipe, f"http://127.0.0.1:{site.server_port}").tracking)
        site.shutdown()


def test_a_server_that_never_answers_is_given_up(recipe):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(InputError, match="cannot be reached"):
            check_server(with_uri(recipe, f"http://127.0.0.1:{silent.getsockname()[1]}").tracking)


def test_databases_that_cannot_be_used_are_refused(recipe, tmp_path):
    (tmp_path / "text.db").write_text("this is no database, but longer than a header of sqlite " * 20)
    with pytest.raises(InputError, match="no usable sqlite database"):
        check_server(with_uri(recipe, f"sqlite:///{tmp_path / 'text.db'}").tracking)
    with pytest.raises(InputError, match="is missing"):
        check_server(with_uri(recipe, f"sqlite:///{tmp_path / 'no' / 'folder.db'}").tracking)


def test_a_database_whose_writer_was_killed_is_used_again(recipe, tmp_path):
    with closing(sqlite3.connect(tmp_path / "live.db", isolation_level=None)) as writer:
        writer.executescript("PRAGMA cache_size = 1; CREATE TABLE kept (value TEXT); INSERT INTO kept VALUES ('old')")
        writer.executescript("BEGIN; UPDATE kept SET value = 'new'; CREATE TABLE half (value TEXT)")
        writer.executemany("INSERT INTO half VALUES (?)", (("x" * 5000,) for _ in range(50)))
        for name in ("live.db", "live.db-journal"):  # as a kill leaves them: the transaction is half on the disk
            shutil.copy(tmp_path / name, tmp_path / name.replace("live", "left"))
    check_server(with_uri(recipe, f"sqlite:///{tmp_path / 'left.db'}").tracking)
    with closing(sqlite3.connect(tmp_path / "left.db")) as reader:
        assert reader.execute("SELECT value FROM kept").fetchall() == [("old",)]
        assert reader.execute("SELECT name FROM sqlite_master").fetchall() == [("kept",)]


def test_a_deleted_experiment_is_named(recipe, workspace, tmp_path):
    fresh = with_uri(recipe, f"sqlite:///{tmp_path / 'fresh.db'}")
    with stage_run(fresh.record, workspace, "probe", "probe", LINEAGE):
        experiment = read_json(workspace.pipeline)["experiment_id"]
    client(fresh.tracking).delete_experiment(experiment)
    with pytest.raises(InputError, match="was deleted"), stage_run(fresh.record, workspace, "probe", "probe", LINEAGE):
        pass


def test_addresses_are_shown_without_credentials():
    assert without_password("https://me:secret@host:5000/x") == "https://host:5000/x"
    assert without_password("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
TREES = st.recursive(SCALARS | st.lists(SCALARS, max_size=3), lambda inner: st.dictionaries(st.text(max_size=5), inner))


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(max_size=5), TREES, max_size=4))
def test_flat_parameters_fit_mlflow(values):
    for name, text in flatten(values).items():
        assert re.fullmatch(r"[\w\-. /:]*", name)
        assert len(text) <= PARAMETER_CHARACTERS


def test_long_values_are_cut():
    assert len(flatten({"text": "x" * 10_000})["text"]) == PARAMETER_CHARACTERS


def test_every_stage_has_parameters(recipe):
    names = {
        stage: stage_parameters(recipe.record, stage, stage) for stage in ("pretrain", "finetune", "evaluate", "report")
    }
    assert names["pretrain"]["pretrain.steps"] == str(recipe.pretrain.steps)
    assert names["report"] == {"main": recipe.main, "recipe": "demo"}

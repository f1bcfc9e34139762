"""What doctor says of places: temporary folders, full disks, programs on a server's port."""

import socket
import sqlite3
import sys
from contextlib import closing
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from mlim import doctor
from mlim.doctor import _compiled, _dvc
from mlim.findings import Finding
from mlim.local_store import address
from mlim.recipe import load_recipe
from mlim.recipe.tracking import TrackingConfig
from mlim.store_health import examine_store, is_temporary

pytestmark = pytest.mark.integration

RECIPE = load_recipe("demo")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A project, which is the current folder, and a folder that is the system's for temporary files."""
    project, temporary = tmp_path / "project", tmp_path / "temporary"
    for folder in (project, temporary):
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(project)
    return project, temporary


def place_of(store: Path) -> Finding:
    [found] = [
        found for found in examine_store(TrackingConfig(uri=address(store))) if found.subject == "tracking place"
    ]
    return found


def test_a_database_in_a_temporary_folder_is_moved_by_the_command_that_is_shown(places):
    project, temporary = places
    assert place_of(project / "mlflow.db").fine
    found = place_of(temporary / "my runs.db")
    assert not found.fine
    assert found.command.endswith("export MLFLOW_TRACKING_URI='sqlite:///my runs.db' && mlim doctor --fix")


def test_no_command_is_shown_that_would_replace_another_database(places):
    project, temporary = places
    for folder in (project, temporary):
        (folder / "mlflow.db").touch()
    found = place_of(temporary / "mlflow.db")
    assert (found.fine, found.command) == (False, "")
    assert "mlflow.db are here already: move it to another folder" in found.detail


def test_libraries_that_are_compiled_at_every_start_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    assert not [*_compiled()]
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    [found] = _compiled()
    assert not found.fine
    library = PathFinder.find_spec("torch")
    assert found.command == f"python -m compileall -q {Path(library.origin).parents[1]}"
    Path(library.cached).parent.mkdir(parents=True)
    Path(library.cached).touch()
    assert not [*_compiled()]


def test_what_dvc_lacks_is_brought_back_alone(places):
    project, _ = places
    (project / "dvc.yaml").touch()
    (project / "data").mkdir()
    assert _dvc().command == "git checkout -- params.yaml .dvc"
    (project / "data").rmdir()
    assert _dvc().command == "git checkout -- params.yaml .dvc && mlim catalog synthesize"


def test_artifacts_in_a_temporary_folder_are_found_whatever_the_database_is(places, new_store):
    project, temporary = places
    store = project / "mlflow.db"
    new_store(store)
    with closing(sqlite3.connect(store)) as database:
        database.execute("UPDATE experiments SET artifact_location = ?", [(temporary / "a b").as_uri()])
        database.commit()
    found = place_of(store)
    assert not found.fine
    assert f"experiment `Default` keeps its artifacts in a temporary folder ({temporary / 'a b'})" in found.detail


def test_a_project_that_is_temporary_itself_may_keep_its_runs(places, monkeypatch):
    _, temporary = places
    monkeypatch.chdir(temporary)
    assert place_of(temporary / "mlflow.db").fine


@pytest.mark.parametrize(("path", "expected"), [("/srv/shop/.dvc/tmp/exps/x/mlflow.db", True), ("/srv/tmp/x", False)])
def test_copies_that_dvc_works_in_are_temporary(path, expected):
    assert is_temporary(Path(path)) is expected


def test_a_full_disk_names_the_folders_on_it_and_what_shows_the_large_ones(places):
    project, _ = places
    assert [found.fine for found in doctor._disks(RECIPE, least=1)] == [True]
    found = next(iter(doctor._disks(RECIPE, least=1 << 62)))
    assert (found.fine, found.subject) == (False, "free disk")
    assert str(project) in found.detail
    assert found.command.startswith("du -h --max-depth=2 ")


def test_another_program_on_the_port_is_mentioned_and_no_answer_comes_with_a_command(monkeypatch):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        monkeypatch.setattr(doctor, "SERVER_PORT", port)
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        [found] = doctor._prefect()
        assert found.fine
        assert f"make serve-prefect PORT={port + 1}" in found.detail
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    [found] = doctor._prefect()
    assert (found.fine, found.command) == (False, "make serve-prefect")


def test_data_that_are_recorded_come_back_and_are_not_replaced_by_the_demo(places):
    """On a fresh clone `data` is missing until somebody pulls it; its DVC file names a shop's data."""
    project, _ = places
    for name in ("dvc.yaml", "params.yaml"):
        (project / name).touch()
    (project / ".dvc").mkdir()
    assert _dvc().command == "mlim catalog synthesize"
    (project / "data.dvc").write_text("outs: [{md5: 1234.dir, path: data}]")
    assert _dvc().command == "dvc pull data.dvc"

"""A project with its store of runs that is moved or copied, and folders with names that addresses find hard."""

import os
import resource
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, redirect_stderr, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from mlim.cli.main import main
from mlim.errors import InputError
from mlim.failures import exit_code_of
from mlim.local_store import address, database, mend
from mlim.recipe import load_recipe
from mlim.tracking import check_server, client, initialise, stage_run, tracking_uri
from mlim.versions import Lineage
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration

LINEAGE = Lineage("c0ffee", False, "5eed.dir", "passed")
RECIPE = load_recipe("demo")


def track(name: str) -> str:
    """A run with one artifact in the store of the current folder; gives its id."""
    path = Path(name)
    path.write_text(name)
    with stage_run(RECIPE.record, Workspace(Path("work")), "probe", "probe", LINEAGE) as run:
        run.artifact(path)
    return str(run.id)


def text_of(run_id: str, name: str, folder: Path) -> str:
    folder.mkdir()
    return Path(client(RECIPE.tracking).download_artifacts(run_id, name, str(folder))).read_text()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_store: Callable[[Path], str]) -> Path:
    """The current folder, with a store of runs without any."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "old").mkdir()
    new_store(tmp_path / "old" / "mlflow.db")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_project_that_moved_is_refused_until_it_is_mended(project, tmp_path, monkeypatch, capsys, how):
    """Point 15: nothing is written into the old place; one sentence names the command, which mends all addresses."""
    first = track("first.txt")
    new = tmp_path / "a new place"
    (shutil.move if how == "moved" else shutil.copytree)(project, new)
    monkeypatch.chdir(new)
    before = sorted(project.rglob("*"))
    with pytest.raises(InputError, match="was moved or copied; run `mlim doctor --fix`") as caught:
        track("second.txt")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(sys, "argv", ["mlim", "doctor", "--fix"])
    with suppress(SystemExit):
        main()
    assert "addresses of artifacts lead to" in capsys.readouterr().err.replace("\n", " ")
    assert text_of(first, "first.txt", tmp_path / "fetched") == "first.txt"
    second = track("second.txt")
    assert client(RECIPE.tracking).get_run(second).info.artifact_uri.startswith(new.as_uri())
    assert client(RECIPE.tracking).get_run(first).data.tags["mlflow.parentRunId"]
    assert sorted(project.rglob("*")) == before
    assert mend(new / "mlflow.db") is None


def test_the_database_is_copied_before_it_is_changed(project, tmp_path, monkeypatch):
    """Point 15: mending is undone by putting the copy back; it is refused while the artifacts are elsewhere."""
    track("first.txt")
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(project / "mlflow.db", new)
    with pytest.raises(InputError, match=r"new/mlruns is missing: bring the artifacts"):
        mend(new / "mlflow.db")
    shutil.copytree(project / "mlruns", new / "mlruns")
    done = mend(new / "mlflow.db")
    assert done is not None
    for path, place in ((done.backup, project), (new / "mlflow.db", new)):
        with closing(sqlite3.connect(path)) as store:
            locations = [row[0] for row in store.execute("SELECT artifact_uri FROM runs")]
        assert locations
        assert all(location.startswith(f"{place.as_uri()}/mlruns/") for location in locations)


def test_an_experiment_whose_place_a_person_chose_stays(project, tmp_path):
    """Point 15: only what mlim itself put beside the database is expected there."""
    client(RECIPE.tracking).create_experiment("mlim", artifact_location=(tmp_path / "disk").as_uri())
    track("first.txt")
    assert list((tmp_path / "disk").rglob("first.txt"))
    assert mend(project / "mlflow.db") is None


def test_a_link_to_the_project_is_the_same_place(project, tmp_path, monkeypatch):
    """Point 15: another way to the same folder is no move."""
    track("first.txt")
    (tmp_path / "link").symlink_to(project)
    monkeypatch.chdir(tmp_path / "link")
    check_server(RECIPE.tracking)


@pytest.mark.parametrize("name", ["a # 'b", 'a # "b', "100% x", "ä 名", "a;b&c+d@e", "[x] {y}"])
def test_folders_with_odd_names_hold_a_store(tmp_path, monkeypatch, name):
    """Point 15: `#`, `%`, blanks and quotes in the path of a project: the runs lie in it and nowhere else."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tmp_path / name
    place.mkdir()
    monkeypatch.chdir(place)
    run_id = track("first.txt")
    assert text_of(run_id, "first.txt", tmp_path / "fetched") == "first.txt"
    assert (place / "mlflow.db").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "fetched"])
    assert database(tracking_uri(RECIPE.tracking)) == place / "mlflow.db"


@pytest.mark.parametrize("name", ["a ?#%20 'b\"", "a?b", "100%25", "a'b\"c"])
def test_folders_that_no_address_can_name_are_refused_before_work(tmp_path, monkeypatch, capsys, name):
    """Point 15: one sentence, and nothing is made, here or in a folder of a similar name."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tmp_path / name
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["mlim", "register", "--quiet"])
    assert main() == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert f"{place / 'mlflow.db'} cannot be the address of a database" in sentence
    assert [*tmp_path.rglob("*")] == [place]


@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"], exclude_characters="/"), min_size=1))
def test_an_address_names_the_file_it_was_made_of(name):
    """Point 15: SQLAlchemy opens the very file, or the path is refused."""
    path = Path("/tmp", f"x{name}")
    try:
        uri = address(path)
    except InputError:
        return
    assert make_url(uri).database == str(database(uri)) == str(path)


def initialise_on_a_full_disk(said: Path) -> int:
    """Exit code of a process that makes the store in the current folder and may write no file of 200 kB."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        with said.open("w") as target, redirect_stderr(target):
            code = exit_code_of(lambda: initialise(RECIPE.tracking))
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_database_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    """What a full disk or `kill -9` left of its tables could be neither used nor completed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    said = tmp_path / "said"
    assert initialise_on_a_full_disk(said) == 1
    assert said.read_text().count("error:") == 1
    assert "make room on the disk and run the same command again" in said.read_text()
    assert {path.name for path in Path().iterdir()} == {"mlflow.db.lock"}
    Path(".mlflow.db.4194304.tmp-journal").write_bytes(b"left by a process that was killed")
    assert initialise(RECIPE.tracking)
    assert {path.name for path in Path().iterdir()} == {"mlflow.db", "mlflow.db.lock"}

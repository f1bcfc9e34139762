"""How a command ends that fails: what another system raises is a sentence, a fault of our own keeps its traceback."""

import errno
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest

from mlim import trial
from mlim.cli.main import main
from mlim.errors import DataError, InputError, MlimError
from mlim.failures import report_error
from mlim.recipe import load_recipe


def package(name: str, body: str) -> ModuleType:
    """A module whose code belongs to `name`, as a traceback sees it."""
    module = ModuleType(name)
    exec(compile(body, f"{name}.py", "exec"), module.__dict__)
    return module


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


OF_PREFECT = package(
    "prefect.server",
    "import json\ndef start(): raise RuntimeError('Timed out\\nmore')\n"
    "def read(): json.loads('{')\ndef run(call): call()",
)
OF_US = package("mlim.steps.x", "def start(): raise RuntimeError('a bug')\ndef run(call): call()")


@pytest.mark.parametrize("call", [OF_PREFECT.start, OF_PREFECT.read, partial(OF_PREFECT.run, OF_PREFECT.start)])
def test_what_an_outside_system_raises_is_one_sentence(
    call: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Point 18: whatever its type, and also when it comes out of Python's library below."""
    assert report_error(raised(partial(OF_US.run, call))) == 1
    [message] = capsys.readouterr().err.splitlines()
    assert message.startswith("error: Prefect failed (")
    assert "mlim doctor" in message


def test_a_full_disk_is_known_by_its_words_where_many_files_are_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library that copies a folder collects what went wrong, without the number of an error."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").touch()

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, None, target)

    copy = partial(shutil.copytree, tmp_path / "model", tmp_path / "copy", copy_function=full)
    assert report_error(raised(copy)) == 1
    [message] = capsys.readouterr().err.splitlines()
    assert message.startswith("error: [Errno 28] No space left on device")
    assert message.endswith("make room on the disk and run the same command again")


def test_a_place_that_cannot_be_used_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Points 18 and 19: whoever asks the system for a name that is too long, a loop, or a folder in a file's place."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / ("x" * 300), tmp_path / "loop", tmp_path / "file" / "x", tmp_path):
        assert report_error(raised(place.read_bytes)) == 1
        [message] = capsys.readouterr().err.splitlines()
        assert "cannot be used (" in message
        assert str(place)[:150] in message
    (tmp_path / "folder").mkdir()
    assert report_error(raised(partial((tmp_path / "file").replace, tmp_path / "folder"))) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'folder'}: cannot be used (")
    assert report_error(raised(partial((tmp_path / "file").mkdir, exist_ok=True))) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'file'}: cannot be used (File exists)")
    assert report_error(raised((tmp_path / "absent").read_bytes)) is None  # what is missing should have been looked for


def test_a_fault_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Point 18: also when Prefect called the code in which it is."""
    assert report_error(raised(partial(OF_US.run, partial(OF_PREFECT.run, OF_US.start)))) is None
    assert report_error(raised(OF_US.start)) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "code"), [(MlimError("x"), 1), (InputError("x", "y"), 2), (DataError("x"), 2)])
def test_our_own_errors_keep_their_codes(error: MlimError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(error) == code
    assert capsys.readouterr().err.splitlines() == [f"error: {line}" for line in str(error).splitlines()]


def test_the_whole_traceback_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Point 18: MLIM_DEBUG=1 shows where."""
    monkeypatch.setenv("MLIM_DEBUG", "1")
    assert report_error(raised(partial(OF_US.run, OF_PREFECT.start))) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_database_that_mlflow_does_not_know_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Point 18: a real failure of MLflow's database layer, met by a real command."""
    with sqlite3.connect(tmp_path / "later.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    monkeypatch.chdir(tmp_path)
    words = ["mlim", "results", "--set", f"tracking.uri=sqlite:///{tmp_path / 'later.db'}"]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "MLflow failed" in last or "tracking: " in last


def test_a_damaged_project_of_suites_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Point 18: a real failure of Great Expectations, as `mlim doctor` meets it."""
    (tmp_path / "expectations").mkdir()
    (tmp_path / "great_expectations.yml").write_text("config_version: none\nplace: ${MLIM_DATA_DOCS}\n")
    monkeypatch.setenv("MLIM_GX_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["trial", "validate"])
    monkeypatch.setattr(sys, "stdin", StringIO(load_recipe("demo").to_yaml()))
    assert trial.main() == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: Great Expectations failed (")

"""The secret of the Prefect server: made once, readable by its owner alone, never taken from a doubtful file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.login import login, login_file
from mlim.errors import MlimError


def test_the_login_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """Point 21: a random secret, created with mode 600 whatever the umask, and kept."""
    path = tmp_path / "home" / "mlim-login"
    before = os.umask(0)
    try:
        made = login(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert login(path) == made == path.read_text().strip()
    assert login(tmp_path / "other") != made
    assert len(made.split(":")[1]) >= 32


def readable(path: Path) -> None:
    login(path)
    path.chmod(0o640)


def linked(path: Path) -> None:
    login(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def half_written(path: Path) -> None:
    path.touch(mode=0o600)


def guessable(path: Path) -> None:
    path.write_text("admin:pass")
    path.chmod(0o600)


def no_text(path: Path) -> None:
    path.write_bytes(b"mlim:" + b"\xff" * 20)
    path.chmod(0o600)


def two_lines(path: Path) -> None:
    path.write_text(f"mlim:{'x' * 20}\nadmin:{'x' * 20}\n")
    path.chmod(0o600)


@pytest.mark.parametrize("spoil", [readable, linked, half_written, guessable, no_text, two_lines])
def test_a_doubtful_file_is_refused(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    """Point 21: a secret that others could know, or that is none, is never used."""
    path = tmp_path / "mlim-login"
    spoil(path)
    with pytest.raises(MlimError, match=r"mlim-login .* delete it"):
        login(path)


def test_the_login_lies_in_prefects_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert login_file() == tmp_path / "mlim-login"
    monkeypatch.delenv("PREFECT_HOME")
    assert login_file() == Path.home() / ".prefect" / "mlim-login"

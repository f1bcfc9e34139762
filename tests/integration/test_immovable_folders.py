"""Folders that a container cannot rename: of a layer of its image, and where a volume is mounted."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import PRIVATE_MOUNTS

pytestmark = pytest.mark.integration

OVERLAY = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr merged"
WRITE = """
from pathlib import Path
from mlim.failures import exit_code_of
from mlim.files import atomic_folder, mark

def write():
    with atomic_folder(Path("merged/data")) as folder:
        print("begun")
        mark(folder)
        (folder / "new").touch()

raise SystemExit(exit_code_of(write))
"""


def write_within(room: Path, mounting: str) -> "subprocess.CompletedProcess[str]":
    """Replace merged/data after a mount that only the command sees."""
    if subprocess.run([*PRIVATE_MOUNTS, mounting], cwd=room, capture_output=True, check=False).returncode:
        pytest.skip(f"`{mounting.split()[2]}` cannot be mounted here (unprivileged user namespaces)")
    command = [*PRIVATE_MOUNTS, f'{mounting} && "$@" && ls -A merged/data', "sh", sys.executable, "-c", WRITE]
    return subprocess.run(command, cwd=room, capture_output=True, text=True, check=False)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    for name in ("lower/data", "upper", "work", "merged/data"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def test_an_empty_folder_of_an_image_is_replaced(room: Path) -> None:
    done = write_within(room, OVERLAY)
    assert done.stdout.split() == ["begun", ".mlim-folder", "new"], done.stderr


def test_results_of_an_image_stay(room: Path) -> None:
    (room / "lower/data/.mlim-folder").touch()
    done = write_within(room, OVERLAY)
    assert done.returncode == 2
    assert "merged/data: cannot be replaced" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (room / "upper").rglob("*")] == []


def test_a_mount_point_is_refused_before_the_work(room: Path) -> None:
    done = write_within(room, "mount -t tmpfs none merged/data")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "name a folder inside it" in done.stderr
    assert "Traceback" not in done.stderr

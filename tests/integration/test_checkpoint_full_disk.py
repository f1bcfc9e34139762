"""A disk that takes no more keeps the checkpoint before."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlim.console import Terminal
from mlim.files import MARKER, claim
from mlim.training.checkpoint import (
    Checkpoints,
)

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path) -> None:
    """Checkpoints lie in a work folder, which is mlim's own."""
    claim(tmp_path, str(tmp_path))


def checkpoints(folder: Path, fingerprint: str = "mine", keep: int = 2, terminal: Terminal | None = None):
    return Checkpoints(folder, fingerprint, keep, terminal or Terminal(quiet=True))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != MARKER)


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from mlim.console import Terminal
from mlim.errors import MlimError
from mlim.training.checkpoint import Checkpoints, Snapshot
saved = Checkpoints(Path(sys.argv[1]), "mine", 2, Terminal(quiet=True))
def snapshot(step, size):
    return Snapshot(step, {"model": {"weight": torch.ones(size)}}, {})
saved.save(snapshot(5, 10))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    saved.save(snapshot(10, 100_000))
except MlimError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "could not be written" in done.stdout
    assert "step-00000005 is still valid" in done.stdout
    assert names(tmp_path) == ["step-00000005"]
    found = checkpoints(tmp_path).newest()
    assert found is not None
    assert found.step == 5

"""How the threads of processes share the cores: among each other, and with other people's programs."""

import os
import subprocess
import sys

import pytest

from mlim.processes import cores, threads_of_each, wait_briefly


@pytest.mark.parametrize(("given", "each"), [("8", 4), ("1", 1), (None, max(1, cores() // 2))])
def test_threads_are_shared_out(given: str | None, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_of_each(2) == {"OMP_NUM_THREADS": str(each)}


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_wait_briefly_unless_told_otherwise(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # whatever is set here comes back after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_the_command_line_loads_torch_after_it_has_said_how_to_wait() -> None:
    script = "import sys, mlim.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0

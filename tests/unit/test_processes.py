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


AT_TORCH = """
import os, sys
def look(event, given):
    if event == "import" and given[0] == "torch":
        print("SPINS", os.environ.get("GOMP_SPINCOUNT"))
sys.addaudithook(look)
sys.argv = ["mlim", "doctor"]
from mlim.cli import main
main()
"""


def test_the_command_line_says_how_to_wait_before_torch_is_loaded() -> None:
    told = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", AT_TORCH], env=told, capture_output=True, text=True, check=False)
    assert "SPINS 3000" in done.stdout.splitlines(), done.stdout + done.stderr
    assert "SPINS None" not in done.stdout

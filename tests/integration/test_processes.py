"""How a process of the command line is set up before torch is loaded, and which processes live."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlim.files import MARKER, claim, write_json
from mlim.processes import is_alive

pytestmark = pytest.mark.integration


AT_TORCH = """
import os, sys
def look(event, given):
    if event == "import" and given[0] == "torch":
        print("SPINS", os.environ.get("GOMP_SPINCOUNT"))
sys.addaudithook(look)
sys.argv = ["mlim", "doctor", "--quick"]
from mlim.cli.main import main
main()
"""


def test_the_command_line_says_how_to_wait_before_torch_is_loaded() -> None:
    variables = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", AT_TORCH], env=variables, capture_output=True, text=True, check=False)
    assert "SPINS 3000" in done.stdout.splitlines(), done.stdout + done.stderr
    assert "SPINS None" not in done.stdout


def test_a_process_that_nobody_has_waited_for_is_dead_and_what_it_was_writing_goes(tmp_path: Path) -> None:
    """A container's first process asks late or never how the others ended: their numbers stay taken."""
    claim(tmp_path, "--work x")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    left = tmp_path / f".summary.json.{process.pid}.tmp"
    left.touch()
    assert is_alive(process.pid)
    write_json(tmp_path / "summary.json", {})
    assert left.exists()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still to be waited for
    assert not is_alive(process.pid)
    write_json(tmp_path / "summary.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {MARKER, "summary.json"}
    process.wait()

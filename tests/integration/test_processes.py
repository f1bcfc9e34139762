"""How a process of the command line is set up before torch is loaded."""

import os
import subprocess
import sys

import pytest

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

"""The folder of the suites is a project, not the library of the same name."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


PROJECT = Path(__file__).resolve().parents[2] / "great_expectations"


def test_the_project_folder_does_not_shadow_the_library():
    assert not list(PROJECT.rglob("__init__.py"))
    command = [sys.executable, "-c", "import great_expectations; print(great_expectations.__file__)"]
    found = subprocess.run(command, cwd=PROJECT.parent, capture_output=True, text=True, check=True).stdout
    assert not Path(found.strip()).is_relative_to(PROJECT)

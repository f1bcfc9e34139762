"""A training without MLflow loads nothing of it."""

import subprocess
import sys

import pytest

from mlim.recipe import Recipe, load_recipe

pytestmark = pytest.mark.integration


WITHOUT_MLFLOW = """
import sys
from pathlib import Path
from mlim.recipe import load_recipe
from mlim.tracking import stage_run
from mlim.versions import Lineage
from mlim.workspace import Workspace
with stage_run(load_recipe(sys.argv[1]).record, Workspace(Path("work")), "probe", "probe", Lineage("", False, "", "")):
    pass
assert not {"mlflow", "torch"} & sys.modules.keys()
"""


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("demo", ["tracking.uri=none"])


def test_nothing_of_mlflow_is_loaded(recipe, tmp_path):
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    subprocess.run([sys.executable, "-c", WITHOUT_MLFLOW, str(tmp_path / "recipe.yaml")], cwd=tmp_path, check=True)

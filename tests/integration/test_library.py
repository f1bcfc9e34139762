"""`import mlim` as a program of a user does it: light to import, and the same scores as the served model."""

import base64
import shutil
import subprocess
import sys

import numpy as np
import pytest

import mlim
from mlim.registry import Registry
from mlim.workspace import Workspace
from tests.registry_room import Registered, some_pairs

pytestmark = pytest.mark.integration


def sent_items(registered: Registered):
    """Pairs as a request has them, and as a program has them."""
    frame = some_pairs(registered.workspace, 5)
    rows = frame.to_dict("records")
    sides = (
        [{"text": row[f"text_{side}"], "image": base64.b64decode(row[f"image_{side}"])} for row in rows]
        for side in "ab"
    )
    return frame, list(zip(*sides, strict=True))


def test_importing_loads_nothing_else_and_is_silent():
    heavy = "{'torch', 'mlflow', 'numpy', 'pydantic', 'yaml'}"
    program = f"import sys, mlim; print(sorted({heavy} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_the_help_loads_no_recipe_and_no_library_of_a_step():
    later = {"mlim.recipe", "torch", "mlflow", "prefect", "numpy", "pandas", "pyarrow"}
    program = f"import sys, mlim.cli.main; print(sorted({later} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_what_scores_pairs_loads_no_reader_of_stacks():
    """skops loads all of scikit-learn, and pytest and Dask where they are installed."""
    program = "import sys, mlim.matching.batch; print(sorted({'skops', 'pytest', 'dask'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_every_place_gives_the_model_that_is_served(registered, tmp_path):
    frame, pairs = sent_items(registered)
    answer = Registry(registered.recipe.tracking).answer("1", [frame])
    workspace = Workspace(shutil.copytree(registered.workspace.root, tmp_path / "work"))
    workspace.recipe.write_text(registered.recipe.to_yaml())
    downloaded = shutil.copytree(registered.folder, tmp_path / "downloaded")
    uri = registered.recipe.tracking.uri
    for where in (
        "models:/mlim-matcher@champion",
        "models:/mlim-matcher/1",
        "challenger",
        workspace.root,
        downloaded,
    ):
        found = mlim.load(where, tracking_uri=uri, device="cpu").predict(pairs)
        np.testing.assert_array_equal(found.probability, answer["probability"])
        np.testing.assert_array_equal(found.match, answer["match"])


def test_a_version_that_was_changed_is_not_loaded(registered, tmp_path):
    folder = shutil.copytree(registered.folder, tmp_path / "downloaded")
    (folder / "serving.py").write_text("print('run')")
    with pytest.raises(mlim.MlimError, match=r"serving\.py changed"):
        mlim.load(folder)
    with pytest.raises(mlim.InputError, match="has no version `9`"):
        mlim.load("models:/mlim-matcher/9", tracking_uri=registered.recipe.tracking.uri)

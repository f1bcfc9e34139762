"""Items that are there already are used, and nobody takes them for a newer catalog's."""

import os
import time

import pytest

from mlim.files import write_json
from mlim.recipe import load_recipe
from mlim.steps.score import prepare_items
from mlim.workspace import Workspace
from tests.small_catalog import small_catalog

HOUR = 3600.0


@pytest.mark.parametrize("changed", [(), ("catalog.yaml",), ("catalog.csv",)])
def test_a_catalog_that_changed_after_its_items_is_named(changed, tmp_path, quiet, capsys):
    catalog, workspace = small_catalog(tmp_path / "shop", rows=2).write(), Workspace(tmp_path / "work")
    write_json(workspace.items / "summary.json", {"catalog": str(catalog)})
    workspace.valid.mkdir()
    (workspace.valid / "index.parquet").touch()
    for path in catalog.parent.glob("catalog.*"):
        age = -HOUR if path.name in changed else HOUR
        os.utime(path, (time.time() - age,) * 2)
    prepare_items(load_recipe("demo"), catalog, workspace, quiet)
    said = capsys.readouterr()
    named = [name for name in ("catalog.yaml", "catalog.csv") if f"{name} has changed since" in said.out + said.err]
    assert named == list(changed)

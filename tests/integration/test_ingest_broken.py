"""Every fault of the embedded catalog is found by ingest and validation, and nothing else."""

from pathlib import Path

import pytest

from mlim.catalog.quarantine import read_quarantine
from mlim.console import Terminal
from mlim.embedded.broken import FAULTS
from mlim.embedded.generate import synthesize
from mlim.recipe import load_recipe
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace

pytestmark = pytest.mark.integration


ITEMS = 40


def test_every_fault_is_found_and_nothing_else(tmp_path: Path) -> None:
    quiet = Terminal(quiet=True)
    synthesize(tmp_path / "data", ITEMS, seed=0, image_size=32, workers=1, terminal=quiet, broken=True)
    workspace = Workspace(tmp_path / "work")
    recipe = load_recipe("demo", ["ingest.workers=1"])
    summary = ingest(recipe, tmp_path / "data/catalog.yaml", workspace, quiet)
    reasons = summary["quarantined"]
    assert summary["rows_in"] == ITEMS + len(FAULTS)
    assert summary["ingested"] == ITEMS + 1  # the tiny picture is whole: validation refuses it
    assert set(reasons) == {
        "missing-image", "not-an-image", "empty-image", "outside-folder", "empty-id", "duplicate-id", "no-text"
    }  # fmt: skip
    assert reasons["not-an-image"] == 2
    assert set(read_quarantine(workspace.items / "quarantine.parquet")["row"]) <= set(range(ITEMS + 1, ITEMS + 10))

"""Rows of variants through the whole of ingest."""

import pytest
import yaml

from mlim.catalog.description import load_description
from mlim.catalog.quarantine import read_quarantine
from mlim.console import Terminal
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace
from tests.shop_tables import write_variants
from tests.small_catalog import recipe


@pytest.fixture
def export(tmp_path):
    return write_variants(tmp_path)


pytestmark = pytest.mark.integration


def test_variant_rows_are_ingested_with_the_text_of_their_product(export, tmp_path):
    """Point 8: with `inherit` only the rows without an id are quarantined."""
    path = tmp_path / "catalog.yaml"
    columns = {"id": "SKU", "image": "Variant Image", "family": "Handle", "text": ["Title", "Type"]}
    values = {"table": "export.csv", "images": "files", "columns": columns, "pairs": {"decided_by": ["Colour"]}}
    path.write_text(yaml.safe_dump({**values, "columns": {**columns, "inherit": ["Title", "Type"]}}))
    assert load_description(path).columns.inherit == ("Title", "Type")
    workspace = Workspace(tmp_path / "work")
    summary = ingest(recipe("ingest.max_quarantined_share=0.3"), path, workspace, Terminal(quiet=True))
    assert (summary["ingested"], summary["quarantined"]) == (24, {"empty-id": 8})
    assert set(read_quarantine(workspace.items / "quarantine.parquet").reason) == {"empty-id"}

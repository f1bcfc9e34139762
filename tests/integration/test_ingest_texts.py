"""What ingest says of cleaned texts."""

from pathlib import Path

import pytest

from tests.small_catalog import described, small_catalog

pytestmark = pytest.mark.integration


def test_ingest_says_whether_all_texts_were_cleaned(tmp_path: Path) -> None:
    """Point 4: the served model reads texts as the catalog's were read, which the items' summary says."""
    catalog = small_catalog(tmp_path)
    assert catalog.ingest()["clean_texts"] is True
    columns = described()["columns"]
    columns["text"] = ["title", {"column": "colour", "clean": False}]
    assert catalog.ingest(columns=columns)["clean_texts"] is False

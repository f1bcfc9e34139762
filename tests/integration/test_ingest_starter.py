"""What `mlim init` writes can be ingested as it is."""

import pandas as pd
import pytest

from mlim.catalog.description import load_description
from mlim.console import Terminal
from mlim.sources.starter import starter_yaml
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace
from tests.shop_tables import write_lamps, written
from tests.small_catalog import recipe


@pytest.fixture
def table(tmp_path):
    return write_lamps(tmp_path)


pytestmark = pytest.mark.integration


def test_it_can_be_ingested_as_it_is(table, tmp_path):
    summary = ingest(recipe(), written(table), Workspace(tmp_path / "work"), Terminal(quiet=True))
    assert summary["ingested"] == 12


def parted(table, name, suffix=".csv.gz"):
    """The table in two files `name` and a second one, beside it."""
    frame = pd.read_csv(table, dtype=str)
    for number, part in enumerate((frame[:6], frame[6:])):
        part.to_csv(table.parent / f"{name}-{number}{suffix}", index=False)
    table.unlink()
    return table.parent / f"{name}-*{suffix}"


def test_a_pattern_of_zipped_tables_can_be_ingested_as_it_is(table, tmp_path):
    pattern = parted(table, "part")
    path = tmp_path / "catalog.yaml"
    path.write_text(starter_yaml(pattern))
    description = load_description(path)
    assert (description.table, description.images) == (pattern, tmp_path / "photos")
    assert description.columns.id == "Article No"
    assert ingest(recipe(), path, Workspace(tmp_path / "work"), Terminal(quiet=True))["ingested"] == 12


@pytest.mark.parametrize("struct", [False, True])
def test_pictures_in_the_cells_of_parquet_need_no_folder(table, tmp_path, struct):
    frame = pd.read_csv(table, dtype=str)
    data = [(table.parent / "photos" / name).read_bytes() for name in frame["photo"]]
    frame["photo"] = [{"bytes": one, "path": None} for one in data] if struct else data
    frame["embedding"] = [b"\0" * 100] * 12
    frame.to_parquet(tmp_path / "shop.parquet")
    path = written(tmp_path / "shop.parquet")
    description = load_description(path)
    assert (description.columns.image.column, description.images) == ("photo", None)
    assert "embedding" not in description.text_columns
    assert ingest(recipe(), path, Workspace(tmp_path / "work"), Terminal(quiet=True))["ingested"] == 12


@pytest.mark.parametrize(
    ("delimiter", "line"), [(";", 'delimiter: ";"'), ("\t", 'delimiter: "\\t"'), ("|", 'delimiter: "|"')]
)
@pytest.mark.parametrize("first", ["", "sep={}\n"])
def test_a_delimiter_that_the_name_does_not_say_is_written(table, tmp_path, delimiter, line, first):
    """Point 7: a table of another delimiter gives the same columns, and a catalog.yaml that can be ingested."""
    pd.read_csv(table, dtype=str).to_csv(table, index=False, sep=delimiter)
    table.write_text(first.format(delimiter) + table.read_text())
    path = written(table)
    assert line in path.read_text()
    description = load_description(path)
    assert (description.delimiter, description.columns.id) == (delimiter, "Article No")
    assert description.text_columns == ("title", "kind", "colour", "story")
    assert ingest(recipe(), path, Workspace(tmp_path / "work"), Terminal(quiet=True))["ingested"] == 12

"""Items that are there already are used, nobody takes them for a newer catalog's, and batches hold little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.catalog.description import load_description
from mlim.errors import InputError
from mlim.files import write_json
from mlim.ingest.freshness import READ_FILES, changed_files, read_files
from mlim.matching.prepared import by_length
from mlim.recipe import load_recipe
from mlim.steps.score import prepare_items
from mlim.workspace import Workspace
from tests.small_catalog import small_catalog


@pytest.mark.parametrize("changed", [(), ("catalog.yaml",), ("catalog.csv",)])
def test_a_catalog_that_changed_after_its_items_is_named(changed, tmp_path, quiet, capsys):
    catalog, workspace = small_catalog(tmp_path / "shop", rows=2).write(), Workspace(tmp_path / "work")
    read = read_files(load_description(catalog), catalog)
    write_json(workspace.items / "summary.json", {"catalog": str(catalog), READ_FILES: read})
    workspace.valid.mkdir()
    (workspace.valid / "index.parquet").touch()
    if "catalog.csv" in changed:
        table = catalog.with_name("catalog.csv")
        table.write_text(table.read_text().replace("plain", "dots"))
    if "catalog.yaml" in changed:
        catalog.write_text(catalog.read_text().replace("- title", "- {column: title, label: name}"))
    prepare_items(load_recipe("demo"), catalog, workspace, quiet)
    said = capsys.readouterr().err
    assert ("older than the catalog" in said) is bool(changed)
    assert [name for name in ("catalog.yaml", "catalog.csv") if f"{name} changed" in said] == list(changed)
    assert ("`mlim match` with --since" in said) is bool(changed)  # `mlim ingest` prepares items for training
    make_pairs_of(workspace)
    prepare_items(load_recipe("demo"), catalog, workspace, quiet)
    assert ("run `mlim ingest " in capsys.readouterr().err) is bool(changed)


def make_pairs_of(workspace: Workspace) -> None:
    workspace.pairs.mkdir()
    (workspace.pairs / "pairs.parquet").touch()


def test_a_catalog_is_known_from_another_folder_and_no_other_is_taken_for_it(tmp_path, quiet, monkeypatch):
    catalog, workspace = small_catalog(tmp_path / "shop", rows=2).write(), Workspace(tmp_path / "work")
    other = small_catalog(tmp_path / "other", rows=3).write()
    read = read_files(load_description(catalog), catalog)
    write_json(workspace.items / "summary.json", {"catalog": "shop/catalog.yaml", READ_FILES: read})
    workspace.valid.mkdir()
    (workspace.valid / "index.parquet").touch()
    monkeypatch.chdir(tmp_path / "other")  # where `shop/catalog.yaml` is nothing
    prepare_items(load_recipe("demo"), catalog, workspace, quiet)
    with pytest.raises(InputError, match=r"holds the items of shop/catalog\.yaml, not of"):
        prepare_items(load_recipe("demo"), other, workspace, quiet)


@pytest.mark.parametrize("changed", ["a/catalog.csv", "b/catalog.csv"])
def test_each_of_two_tables_of_one_name_is_noticed(changed, tmp_path):
    shop = small_catalog(tmp_path, rows=2)
    catalog = shop.write(table="*/catalog.csv")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "catalog.csv").write_text((tmp_path / "catalog.csv").read_text())
    summary = {READ_FILES: read_files(load_description(catalog), catalog)}
    assert changed_files(summary, load_description(catalog), catalog) == []
    table = tmp_path / changed
    table.write_text(table.read_text().replace("plain", "dots"))
    assert changed_files(summary, load_description(catalog), catalog) == [changed]


LENGTHS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 9))
def test_batches_hold_every_pair_once_and_no_more_than_fit(pairs, size):
    first, second = np.array(pairs).T
    batches = by_length(size, first, second)
    assert sorted(np.concatenate(batches).tolist()) == [*range(len(pairs))]
    assert all(0 < len(batch) <= size for batch in batches)
    assert all(len(batch) >= size // 4 for batch in batches[:-1])
    assert len(by_length(size, first)) <= len(pairs)


def test_pairs_of_one_length_are_computed_together():
    """Enough of each kind: nothing is padded, in whatever order they come."""
    first, second = np.random.default_rng(0).permutation(np.repeat([[3, 5], [5, 3], [5, 4]], 40, axis=0)).T
    for batch in by_length(16, first, second):
        assert len({*zip(first[batch].tolist(), second[batch].tolist(), strict=True)}) == 1

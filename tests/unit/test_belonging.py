"""An index of accepted items is read with the shards that it was made from, and with no others."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mlim.catalog.description import CatalogDescription
from mlim.errors import InputError
from mlim.files import sha256_of
from mlim.shards.belonging import check_index, schema_for
from mlim.shards.items import ItemStore
from mlim.shards.shard import MANIFEST_FILE
from mlim.steps.pairs import _accepted_items, _Inputs
from mlim.workspace import INDEX_FILE


@pytest.fixture
def index(tiny_workspace, tmp_path):
    """A copy of the index, to be changed."""
    (tmp_path / "valid").mkdir()
    return shutil.copy(tiny_workspace.valid / INDEX_FILE, tmp_path / "valid" / INDEX_FILE)


def of_version(index, version):
    table = pq.read_table(index)
    pq.write_table(table.cast(schema_for(table.schema, version)), index)


def test_an_index_of_the_present_shards_is_read(index, tiny_workspace):
    of_version(index, sha256_of(tiny_workspace.items / MANIFEST_FILE))
    check_index(index, tiny_workspace.items)
    assert len(ItemStore.open(tiny_workspace.items, index)) > 0


def test_after_another_ingest_nothing_reads_it(index, tiny_workspace):
    """The same places hold other items: every text would meet its neighbour's picture."""
    of_version(index, "0" * 64)
    for read in (lambda: check_index(index, tiny_workspace.items), lambda: ItemStore.open(tiny_workspace.items, index)):
        with pytest.raises(InputError, match=r"is of other items than those .* run `mlim validate` again"):
            read()


def test_an_index_of_an_earlier_version_and_shards_elsewhere_are_taken_as_they_are(index, tiny_workspace, tmp_path):
    check_index(index, tmp_path / "elsewhere")
    pq.write_table(pq.read_table(index).replace_schema_metadata(None), index)
    check_index(index, tiny_workspace.items)
    assert len(ItemStore.open(tiny_workspace.items, index)) > 0


def test_pairs_are_not_made_of_facts_of_before_another_ingest(own_workspace, tiny_recipe):
    inputs = _Inputs(tiny_recipe, Path("catalog.yaml"), CatalogDescription.model_construct(), own_workspace)
    of_version(own_workspace.valid / INDEX_FILE, "0" * 64)
    with pytest.raises(InputError, match="run `mlim validate` again"):
        _accepted_items(inputs)

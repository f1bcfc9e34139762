"""Items by id: from a work folder, from another process, from an object store."""

import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import simplejpeg
from conftest import COLOURS, FAMILIES, FAMILY_SIZE
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlim.catalog.item import join_text
from mlim.catalog.quarantine import Quarantined, describe_reasons, read_quarantine, write_quarantine
from mlim.errors import InputError, MlimError
from mlim.shards.items import ItemStore
from mlim.shards.mapped import Strings

ITEMS = FAMILIES * FAMILY_SIZE
SHARD = "part-00001.arrow"


@pytest.fixture
def workspace(own_workspace):
    """One item was refused by validation, and the index is in an order of its own."""
    path = own_workspace.valid / "index.parquet"
    table = pq.read_table(path)
    table = table.filter(pc.not_equal(table["id"], "item-001"))
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    return own_workspace


@given(side=st.integers(1, 40), quality=st.integers(5, 100), seed=st.integers(0, 2**32 - 1))
def test_pictures_are_decoded_as_pillow_decodes_them(side, quality, seed):
    """What a training sees does not depend on which of the two decodes."""
    drawn = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(drawn).save(jpeg, "JPEG", quality=quality)
    assert np.array_equal(simplejpeg.decode_jpeg(jpeg.getvalue()), np.asarray(Image.open(jpeg)))


def index_of(workspace) -> Path:
    return workspace.valid / "index.parquet"


@pytest.fixture
def store(workspace):
    return ItemStore.open(workspace.items, index_of(workspace))


def as_stored(workspace) -> dict[str, dict]:
    """Every item with its picture, read the plain way."""
    shards = [pa.ipc.open_file(path.read_bytes()).read_all() for path in sorted(workspace.items.glob("part-*.arrow"))]
    return {row["id"]: row for row in pa.concat_tables(shards).to_pylist()}


def test_every_item_has_its_own_text_and_picture(store, workspace):
    listed = pq.read_table(index_of(workspace))["id"].to_pylist()
    assert list(store.ids) == listed
    assert len(store) == ITEMS - 1
    items = as_stored(workspace)
    for item in listed:
        assert store.text(item) == items[item]["text"]
        assert store.columns(item) == json.loads(items[item]["attributes"])
        assert store.jpeg(item) == items[item]["image"]
        assert store.row(item) == listed.index(item)
    assert [text for part in store.texts() for text in part] == [items[item]["text"] for item in listed]


def test_pictures_are_decoded_on_demand(store):
    for number in range(2, 6):
        family, member = divmod(number, FAMILY_SIZE)
        image = store.image(f"item-{number:03d}")
        assert image.shape == (16, 16, 3)
        assert image.dtype == np.uint8
        colour = list(COLOURS.values())[(family + member) % len(COLOURS)]
        assert np.abs(image[2:4].reshape(-1, 3).mean(axis=0) - colour).max() < 50


@pytest.mark.parametrize("item", ["item-001", "", "item", "item-0000", "zzz", "\U0001f45f", None, 3])
def test_an_item_that_is_not_in_the_index_is_not_there(store, item):
    assert "item-000" in store
    assert item not in store
    if isinstance(item, str):
        with pytest.raises(KeyError):
            store.text(item)


def test_items_that_are_missing_are_told_apart(store):
    asked = pa.array(["item-003", "item-001", "item-099"])
    assert store.missing(asked).to_pylist() == ["item-001", "item-099"]


def test_strings_stay_in_arrow_and_behave_like_a_list():
    strings = Strings(pa.chunked_array([["a", "b"], ["c"]]))
    assert (strings[0], strings[-1], strings[1:], len(strings)) == ("a", "c", ["b", "c"], 3)
    assert list(strings) == ["a", "b", "c"]
    with pytest.raises(IndexError):
        strings[3]


def test_a_store_travels_to_another_process_as_its_paths(store):
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert again.jpeg("item-003") == store.jpeg("item-003")
    assert (again.version, again.fingerprint) == (store.version, store.fingerprint)


def test_what_was_derived_is_reused_and_follows_the_index(store, workspace):
    derived = list(workspace.cache.glob("places-*"))
    assert ItemStore.open(workspace.items, index_of(workspace)).fingerprint == store.fingerprint
    assert list(workspace.cache.glob("places-*")) == derived
    pq.write_table(pq.read_table(index_of(workspace)).slice(1), index_of(workspace))
    shorter = ItemStore.open(workspace.items, index_of(workspace))
    assert len(shorter) == len(store) - 1
    assert shorter.fingerprint != store.fingerprint


def test_missing_steps_are_named(workspace, tmp_path):
    with pytest.raises(InputError, match="run `mlim validate` first"):
        ItemStore.open(workspace.items, tmp_path / "index.parquet")
    with pytest.raises(InputError, match="run `mlim ingest` first"):
        ItemStore.open(tmp_path / "items", index_of(workspace))


def test_a_shard_that_changed_is_named_before_anything_is_read(workspace):
    path = workspace.items / SHARD
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{SHARD} changed since it was written"):
        ItemStore.open(workspace.items, index_of(workspace))


@pytest.mark.parametrize(("column", "value"), [("position", 999), ("position", -1), ("shard", "part-00009.arrow")])
def test_an_index_of_other_shards_is_refused(workspace, column, value):
    table = pq.read_table(index_of(workspace))
    values = [*table[column].to_pylist()[:-1], value]
    table = table.set_column(
        table.schema.get_field_index(column), column, pa.array(values, table.schema.field(column).type)
    )
    pq.write_table(table, index_of(workspace))
    last = table["id"].to_pylist()[-1]
    with pytest.raises(InputError, match=rf"item {last} lies at .*{value}.*run `mlim validate` again"):
        ItemStore.open(workspace.items, index_of(workspace))


def test_a_shard_that_shrinks_while_it_is_read_is_an_error_and_no_crash(store, workspace):
    for path in workspace.items.glob("part-*.arrow"):
        os.truncate(path, 100)
    with pytest.raises(MlimError, match="was cut while it was in use"):
        store.jpeg("item-003")
    shutil.rmtree(workspace.items)
    with pytest.raises(MlimError, match="cannot be read"):
        store.jpeg("item-003")


# ---- shards elsewhere ----


@pytest.mark.parametrize("scheme", ["file://", "memory://"])
def test_any_store_that_fsspec_knows_will_do(workspace, scheme):
    here = ItemStore.open(workspace.items, index_of(workspace))
    url = f"file://{workspace.items}"
    if scheme == "memory://":
        url = "memory://bucket/items"
        fsspec.filesystem("memory").put(str(workspace.items), "/bucket/items", recursive=True)
    store = ItemStore.open(url, index_of(workspace))
    assert {item: store.jpeg(item) for item in store.ids} == {item: here.jpeg(item) for item in here.ids}
    assert store.version == here.version


@pytest.mark.parametrize(
    ("url", "error", "sentence"),
    [
        ("http://127.0.0.1:9/items", MlimError, "could not be fetched .*run the same command again"),
        ("memory://nowhere", InputError, "has no manifest.json"),
        ("nonsense://bucket", InputError, "cannot be opened"),
    ],
)
def test_a_place_that_cannot_be_read_is_explained(workspace, url, error, sentence):
    with pytest.raises(error, match=sentence):
        ItemStore.open(url, index_of(workspace))


def test_a_store_whose_package_is_not_installed_is_named_with_the_package(workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed, also where it is
    sentence = r"loader\.items s3://bucket/items: s3:// addresses need a package .*s3fs.*install it with pip"
    with pytest.raises(InputError, match=sentence):
        ItemStore.open("s3://bucket/items", index_of(workspace))


def test_labels_are_written_and_empty_values_left_out():
    assert join_text([(None, "Dress"), ("colour", "red"), ("shade", ""), (None, "")]) == "Dress; colour: red"


def test_quarantine_round_trip(tmp_path):
    rows = [
        Quarantined("t.csv", 3, "a", "ingest", "no-text", "every text column is empty", b"jpeg"),
        Quarantined("t.csv", 1, "", "validate", "expect_x", "too small"),
        Quarantined("t.csv", 9, "b", "ingest", "no-text", "every text column is empty"),
    ]
    counts = write_quarantine(tmp_path / "quarantine.parquet", iter(rows))
    assert counts == {"expect_x": 1, "no-text": 2}
    assert describe_reasons(counts) == "no-text 2, expect_x 1"
    read = read_quarantine(tmp_path / "quarantine.parquet")
    assert list(read.row) == [3, 1, 9]
    assert read.thumbnail[0] == b"jpeg"
    assert read.thumbnail[1] is None


def test_an_empty_quarantine_still_has_its_columns(tmp_path):
    assert write_quarantine(tmp_path / "quarantine.parquet", []) == {}
    assert "reason" in read_quarantine(tmp_path / "quarantine.parquet").columns

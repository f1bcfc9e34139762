import numpy as np
import pandas as pd
import pytest
from small_catalog import small_catalog

from mlim.catalog.item import join_text
from mlim.catalog.items import ItemStore
from mlim.catalog.quarantine import Quarantined, describe_reasons, read_quarantine, write_quarantine
from mlim.errors import InputError


@pytest.fixture
def store(tmp_path):
    catalog = small_catalog(tmp_path, rows=5)
    catalog.ingest("ingest.rows_per_shard=2")
    rows = [
        pd.read_parquet(path).assign(shard=path.name, position=lambda frame: range(len(frame)))
        for path in sorted(catalog.work().items.glob("part-*.parquet"))
    ]
    index = tmp_path / "index.parquet"
    pd.concat(rows).drop(columns="image").query("id != '001'").to_parquet(index)  # one was refused by validation
    return ItemStore.open(catalog.work().items, index)


def test_items_by_id(store):
    assert store.ids == ["000", "002", "003", "004"]
    assert len(store) == 4
    assert store.text("003") == "thing 3; colour: red"
    assert store.jpeg("003").startswith(b"\xff\xd8")


def test_pictures_are_decoded_on_demand(store):
    expected = {"000": (255, 0, 0), "002": (0, 0, 255), "004": (0, 128, 0)}
    for item, colour in expected.items():
        image = store.image(item)
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert np.abs(image[32, 32].astype(int) - colour).max() < 6


def test_an_item_that_was_refused_is_not_there(store):
    assert "000" in store
    assert "001" not in store
    with pytest.raises(KeyError):
        store.text("001")


def test_missing_steps_are_named(tmp_path):
    with pytest.raises(InputError, match="run `mlim validate` first"):
        ItemStore.open(tmp_path / "items", tmp_path / "index.parquet")


def test_labels_are_written_and_empty_values_left_out():
    assert join_text([(None, "Dress"), ("colour", "red"), ("shade", ""), (None, "")]) == "Dress; colour: red"


def test_quarantine_round_trip(tmp_path):
    rows = [
        Quarantined(3, "a", "ingest", "no-text", "every text column is empty", b"jpeg"),
        Quarantined(1, "", "validate", "expect_x", "too small"),
        Quarantined(9, "b", "ingest", "no-text", "every text column is empty"),
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

import io
import json

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_catalog import described, recipe, small_catalog

from mlim.catalog.description import load_description
from mlim.catalog.ingest import check_ledger, decode_rows
from mlim.catalog.item import ITEM_SCHEMA, QUARANTINE_SCHEMA
from mlim.catalog.quarantine import read_quarantine
from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.files import read_json, sha256_of
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace

TOLERANT = "ingest.max_quarantined_share=0.9"


@pytest.fixture
def catalog(tmp_path):
    return small_catalog(tmp_path)


def items(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))], ignore_index=True)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_good_catalog_becomes_items(catalog):
    summary = catalog.ingest()
    folder = catalog.work().items
    assert summary == read_json(folder / "summary.json")
    assert summary == {
        "rows_in": 6,
        "ingested": 6,
        "quarantined": {},
        "data_version": sha256_of(folder / "manifest.json"),
        "catalog": str(catalog.description),
    }
    found = items(folder)
    assert list(found.columns) == ITEM_SCHEMA.names
    first = found.iloc[0]
    assert (first.id, first.family, first.row) == ("000", "p0", 1)
    assert first.text == "thing 0; colour: red"
    assert json.loads(first.attributes) == {"title": "thing 0", "colour": "red"}
    assert json.loads(first.facts) == {"pattern": "plain"}
    assert (first.image_width, first.image_height) == (40, 60)
    with Image.open(io.BytesIO(first.image)) as picture:
        assert picture.size == (64, 64)
        assert picture.getpixel((9, 9))[0] > 240


def test_the_manifest_tells_every_shard(catalog):
    catalog.ingest("ingest.rows_per_shard=4")
    folder = catalog.work().items
    manifest = read_json(folder / "manifest.json")
    assert [(shard["file"], shard["items"]) for shard in manifest] == [
        ("part-00000.parquet", 4),
        ("part-00001.parquet", 2),
    ]
    for shard in manifest:
        path = folder / shard["file"]
        assert (shard["bytes"], shard["sha256"]) == (path.stat().st_size, sha256_of(path))
    assert list(items(folder).id) == [row["sku"] for row in catalog.rows]


def test_leading_zeros_and_the_text_na_survive(catalog):
    catalog.rows[0] |= {"sku": "0007", "title": "NA", "colour": "", "product": "NA"}
    catalog.ingest()
    first = items(catalog.work().items).iloc[0]
    assert (first.id, first.text, first.family) == ("0007", "NA", "NA")


def test_an_empty_family_is_none(catalog):
    catalog.rows[0]["product"] = ""
    catalog.ingest()
    assert items(catalog.work().items).family.isna().tolist() == [True, False, False, False, False, False]


def zero_bytes(catalog):
    (catalog.images / "2.png").write_bytes(b"")


def truncated(catalog):
    path = catalog.images / "2.png"
    path.write_bytes(path.read_bytes()[:60])


def words(catalog):
    (catalog.images / "2.png").write_text("no picture")


def refused_format(catalog):
    Image.new("RGB", (40, 40)).save(catalog.images / "2.png", "BMP")


def link_out(catalog):
    path = catalog.images / "2.png"
    outside = catalog.folder / "outside.png"
    path.rename(outside)
    path.symlink_to(outside)


def large(catalog):
    Image.new("L", (2100, 1000)).save(catalog.images / "2.png")


def cell(**changes):
    return lambda catalog: catalog.rows[2].update(changes)


BAD_ROWS = {
    "missing": (lambda catalog: (catalog.images / "2.png").unlink(), "missing-image", False),
    "zero bytes": (zero_bytes, "empty-image", False),
    "truncated": (truncated, "not-an-image", False),
    "words": (words, "not-an-image", False),
    "refused format": (refused_format, "not-an-image", False),
    "bomb": (large, "image-bomb", False),
    "dots": (cell(picture="../images/../outside.png"), "outside-folder", False),
    "absolute": (cell(picture="/etc/hostname"), "outside-folder", False),
    "link": (link_out, "outside-folder", False),
    "no id": (cell(sku=" "), "empty-id", True),
    "same id": (cell(sku="000"), "duplicate-id", True),
    "no text": (cell(title=" ", colour=""), "no-text", True),
    "no image name": (cell(picture=" "), "no-image-name", False),
}


@pytest.mark.parametrize(("spoil", "reason", "shown"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_set_aside_with_its_reason(catalog, spoil, reason, shown):
    spoil(catalog)
    summary = catalog.ingest("ingest.max_megapixels=2")
    assert summary["quarantined"] == {reason: 1}
    assert summary["ingested"] == 5
    [row] = read_quarantine(catalog.work().items / "quarantine.parquet").itertuples()
    assert (row.row, row.id, row.stage, row.reason) == (3, catalog.rows[2]["sku"], "ingest", reason)
    assert row.detail
    assert (row.thumbnail is not None) == shown
    assert list(items(catalog.work().items).row) == [1, 2, 4, 5, 6]


def test_the_first_of_two_equal_ids_keeps_its_place(catalog):
    catalog.rows[1]["sku"] = catalog.rows[5]["sku"] = "000"
    summary = catalog.ingest(TOLERANT)
    assert summary["quarantined"] == {"duplicate-id": 2}
    assert list(items(catalog.work().items).row) == [1, 3, 4, 5]


def test_too_many_bad_rows_stop_the_run_and_keep_the_last_good_items(catalog):
    catalog.ingest()
    before = contents(catalog.work().items)
    words(catalog)
    catalog.rows[4]["sku"] = ""
    with pytest.raises(DataError) as caught:
        catalog.ingest()
    told = str(caught.value)
    kept = catalog.work().root / "items.refused" / "quarantine.parquet"
    for part in ("2 of 6 rows (33.3%)", "(20.0%)", "empty-id 1, not-an-image 1", str(kept)):
        assert part in told
    assert list(read_quarantine(kept).reason) == ["not-an-image", "empty-id"]
    assert contents(catalog.work().items) == before
    catalog.ingest(TOLERANT)
    assert not kept.parent.exists()


def test_every_row_bad_stops_even_the_most_tolerant_run(catalog):
    for path in catalog.images.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="missing-image 6"):
        catalog.ingest("ingest.max_quarantined_share=1.0")
    assert not catalog.work().items.exists()


def test_missing_columns_are_all_told_with_the_nearest_name(catalog):
    columns = {"id": "skuu", "image": "picture", "family": "product", "text": ["titel"]}
    with pytest.raises(InputError) as caught:
        catalog.ingest(columns=columns)
    first, second = caught.value.problems
    assert "no column `skuu` (did you mean `sku`?)" in first
    assert "no column `titel` (did you mean `title`?)" in second


def test_one_family_is_no_catalog_to_split(catalog):
    for row in catalog.rows:
        row["product"] = "p"
    with pytest.raises(InputError, match="holds only one family"):
        catalog.ingest()
    for row in catalog.rows:
        row["product"] = ""
    with pytest.raises(InputError, match="empty in every row"):
        catalog.ingest()


def test_a_missing_table_folder_or_row_stops_before_any_work(catalog):
    with pytest.raises(InputError, match="no such table"):
        catalog.ingest(table="other.csv")
    with pytest.raises(InputError, match="images folder"):
        catalog.ingest(images="other")
    catalog.rows.clear()
    with pytest.raises(InputError, match="no rows"):
        catalog.ingest()
    assert not catalog.work().root.exists()


def test_a_catalog_without_families_can_be_ingested(catalog):
    columns = {key: value for key, value in described()["columns"].items() if key != "family"}
    catalog.ingest(columns=columns, pairs={})
    assert items(catalog.work().items).family.isna().all()


def test_a_synthetic_catalog_is_drawn_first(tmp_path):
    path = tmp_path / "catalog.yaml"
    path.write_text("source: synthetic\nsynthetic: {items: 24, seed: 5, image_size: 48}\n")
    workspace = Workspace(tmp_path / "work")
    summary = ingest(recipe(), path, workspace, Terminal(quiet=True))
    assert summary["rows_in"] == summary["ingested"] == 24
    deciding = load_description(path).pairs.decided_by
    assert deciding
    assert all(set(json.loads(facts)) >= set(deciding) for facts in items(workspace.items).facts)


def test_a_ledger_that_does_not_add_up_is_never_written():
    with pytest.raises(MlimError, match="7 rows came in but 3 were ingested and 2 quarantined"):
        check_ledger({"rows_in": 7, "ingested": 3, "quarantined": {"no-text": 2}})


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    catalog = small_catalog(tmp_path, rows=150)
    catalog.rows[70]["picture"] = "none.png"
    catalog.rows[100]["sku"] = ""
    one = catalog.ingest("ingest.workers=1", "ingest.rows_per_shard=40", work="one")
    two = catalog.ingest("ingest.workers=2", "ingest.rows_per_shard=40", work="two")
    assert one == two
    assert contents(catalog.work("one").items) == contents(catalog.work("two").items)


def test_a_run_again_gives_the_same_version_and_another_picture_another(catalog):
    first = catalog.ingest(work="one")
    assert catalog.ingest(work="two") == first
    Image.new("RGB", (40, 60), "black").save(catalog.images / "0.png")
    assert catalog.ingest(work="three")["data_version"] != first["data_version"]


CELL = st.sampled_from(["", " ", "0.png", "1.png", "none.png", "../x.png", "words.png", "a", "b", "NA"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"sku": CELL, "picture": CELL, "title": CELL}), min_size=1, max_size=12))
def test_every_row_is_accounted_for_whatever_its_cells(tmp_path_factory, rows):
    catalog = small_catalog(tmp_path_factory.mktemp("catalog"), rows=3)
    (catalog.images / "words.png").write_text("words")
    catalog.rows += [{**catalog.rows[0], **row, "colour": ""} for row in rows]
    summary = catalog.ingest("ingest.max_quarantined_share=1.0")
    assert summary["rows_in"] == len(rows) + 3 == summary["ingested"] + sum(summary["quarantined"].values())
    kept = items(catalog.work().items)
    aside = read_quarantine(catalog.work().items / "quarantine.parquet")
    assert sorted([*kept.row, *aside.row]) == list(range(1, len(rows) + 4))
    assert kept.id.is_unique
    assert list(aside.columns) == QUARANTINE_SCHEMA.names


def test_a_dead_decoding_process_is_a_failed_run(tmp_path):
    catalog = small_catalog(tmp_path)
    with pytest.raises(MlimError, match=r"ingest\.workers=1"):
        list(decode_rows([KillsItsReader()], None, workers=2))
    assert catalog.ingest()["ingested"] == 6  # and the next run is fine


class KillsItsReader:
    """A row whose job ends the process that unpickles it."""

    def job(self):
        return EndProcess()


class EndProcess:
    def __reduce__(self):
        import os

        return os._exit, (1,)

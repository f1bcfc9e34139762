import io
import json

import pandas as pd
import pytest
from PIL import Image
from small_catalog import described, recipe, small_catalog

from mlim.catalog.description import load_description
from mlim.catalog.ingest import check_counts
from mlim.catalog.item import ITEM_SCHEMA, LEDGER_SCHEMA, QUARANTINE_SCHEMA
from mlim.catalog.ledger import read_ledger
from mlim.catalog.quarantine import read_quarantine
from mlim.catalog.shards import read_manifest, read_shard
from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.files import read_json, sha256_of
from mlim.steps.ingest import check_catalog, ingest
from mlim.workspace import Workspace

TOLERANT = "ingest.max_quarantined_share=0.9"


@pytest.fixture
def catalog(tmp_path):
    return small_catalog(tmp_path)


def items(folder):
    return pd.concat([read_shard(folder / entry.file).to_pandas() for entry in read_manifest(folder)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_good_catalog_becomes_items(catalog):
    catalog.rows[0] |= {"sku": "0007", "title": "NA", "product": "NA"}
    catalog.rows[1]["product"] = ""
    summary = catalog.ingest("ingest.rows_per_shard=4")
    folder = catalog.work().items
    assert summary == read_json(folder / "summary.json")
    assert summary == {
        "rows_in": 6,
        "ingested": 6,
        "quarantined": {},
        "data_version": sha256_of(folder / "manifest.json"),
        "catalog": str(catalog.description),
        "source": {},
    }
    found = items(folder)
    assert list(found.columns) == ITEM_SCHEMA.names
    assert list(found.id) == [row["sku"] for row in catalog.rows]
    assert list(found.family.isna()) == [False, True, False, False, False, False]
    first = found.iloc[0]
    assert (first.id, first.text, first.family) == ("0007", "NA; colour: red", "NA")
    assert json.loads(first.attributes) == {"title": "NA", "colour": "red"}
    assert json.loads(first.facts) == {"pattern": "plain"}
    assert (first.image_width, first.image_height) == (40, 60)
    with Image.open(io.BytesIO(first.image)) as picture:
        assert picture.size == (64, 64)
        assert picture.getpixel((9, 9))[0] > 240
    for shard in read_manifest(folder):
        path = folder / shard.file
        assert (shard.bytes, shard.sha256) == (path.stat().st_size, sha256_of(path))
        assert 0 < shard.items <= 4


def picture_file(data):
    return lambda catalog, path: path.write_bytes(data)


def truncated(catalog, path):
    path.write_bytes(path.read_bytes()[:60])


def refused_format(catalog, path):
    Image.new("RGB", (40, 40)).save(path, "BMP")


def link_out(catalog, path):
    outside = catalog.folder / path.name
    path.rename(outside)
    path.symlink_to(outside)


def large(catalog, path):
    Image.new("L", (2100, 1000)).save(path)


def cell(**changes):
    return lambda catalog, path: catalog.rows[int(path.stem)].update(changes)


BAD_ROWS = {
    "missing": (lambda catalog, path: path.unlink(), "missing-image", False),
    "zero bytes": (picture_file(b""), "empty-image", False),
    "truncated": (truncated, "not-an-image", False),
    "words": (picture_file(b"no picture"), "not-an-image", False),
    "refused format": (refused_format, "not-an-image", False),
    "bomb": (large, "image-bomb", False),
    "too many bytes": (picture_file(bytes(200_000)), "too-many-bytes", False),
    "dots": (cell(picture="../images/../outside.png"), "outside-folder", False),
    "absolute": (cell(picture="/etc/hostname"), "outside-folder", False),
    "link": (link_out, "outside-folder", False),
    "no id": (cell(sku=" "), "empty-id", True),
    "same id": (cell(sku="000"), "duplicate-id", True),
    "no text": (cell(title=" ", colour=""), "no-text", True),
    "long cell": (cell(title="x" * 5001), "cell-too-long", True),
    "no image name": (cell(picture=" "), "no-image-name", False),
}


def test_every_bad_row_is_set_aside_with_its_reason_place_and_thumbnail(tmp_path):
    catalog = small_catalog(tmp_path, 2 + len(BAD_ROWS))
    for number, (spoil, _, _) in enumerate(BAD_ROWS.values(), start=1):
        spoil(catalog, catalog.images / f"{number}.png")
    limits = ("ingest.max_megapixels=2", "ingest.max_picture_mb=0.1", "ingest.max_cell_characters=5000")
    summary = catalog.ingest(TOLERANT, *limits)
    assert summary["ingested"] == 2
    assert summary["rows_in"] == 2 + len(BAD_ROWS) == 2 + sum(summary["quarantined"].values())
    aside = read_quarantine(catalog.work().items / "quarantine.parquet")
    assert list(aside.columns) == QUARANTINE_SCHEMA.names
    assert list(aside.row) == list(range(2, 2 + len(BAD_ROWS)))
    assert set(aside.source) == {"catalog.csv"}
    assert set(aside.stage) == {"ingest"}
    found = {
        name: (row.reason, row.thumbnail is not None) for name, row in zip(BAD_ROWS, aside.itertuples(), strict=True)
    }
    assert found == {name: (reason, shown) for name, (_, reason, shown) in BAD_ROWS.items()}
    assert all(aside.detail)
    ledger = read_ledger(catalog.work().items).to_pandas()
    assert list(ledger.columns) == LEDGER_SCHEMA.names
    assert list(ledger.row) == list(range(1, 3 + len(BAD_ROWS)))
    assert list(ledger.reason[1:-1]) == list(aside.reason)


def test_too_many_bad_rows_stop_the_run_and_keep_the_last_good_items(catalog):
    catalog.ingest()
    before = contents(catalog.work().items)
    (catalog.images / "2.png").write_text("no picture")
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


@pytest.mark.parametrize(("family", "told"), [("p", "holds only one family"), ("", "empty in every row")])
def test_one_family_is_no_catalog_to_split(catalog, family, told):
    for row in catalog.rows:
        row["product"] = family
    for check in (
        lambda: catalog.ingest(),
        lambda: check_catalog(recipe(), catalog.description, catalog.work()),
    ):
        with pytest.raises(InputError, match=told):
            check()
    assert not catalog.work().items.exists()


def test_a_missing_table_or_folder_stops_before_any_work(catalog):
    with pytest.raises(InputError, match="no such table"):
        catalog.ingest(table="other.csv")
    with pytest.raises(InputError, match="images"):
        catalog.ingest(images="other")
    assert not catalog.work().root.exists()


def test_a_table_without_rows_is_no_catalog(catalog):
    catalog.rows.clear()
    with pytest.raises(InputError, match="the source has no rows"):
        catalog.ingest()
    assert not catalog.work().items.exists()


def test_a_source_that_changes_while_it_is_read_is_not_accepted(catalog, monkeypatch):
    from mlim.catalog.sources.table import TableSource

    states = iter(range(9))
    monkeypatch.setattr(TableSource, "state", lambda self: str(next(states)))
    with pytest.raises(InputError, match="changed while it was read"):
        catalog.ingest()
    assert not catalog.work().items.exists()


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


def test_counts_that_do_not_add_up_are_never_written():
    with pytest.raises(MlimError, match="7 rows came in but 3 were ingested and 2 quarantined"):
        check_counts({"rows_in": 7, "ingested": 3, "quarantined": {"no-text": 2}})


def test_a_run_again_gives_the_same_version_and_another_picture_another(catalog):
    first = catalog.ingest(work="one")
    assert catalog.ingest(work="two") == first
    Image.new("RGB", (40, 60), "black").save(catalog.images / "0.png")
    assert catalog.ingest(work="three")["data_version"] != first["data_version"]


def test_two_runs_on_one_work_folder_do_not_mix(catalog):
    from filelock import FileLock

    catalog.ingest()
    with FileLock(catalog.work().root / ".ingest.lock"), pytest.raises(MlimError, match="another `mlim ingest`"):
        catalog.ingest()

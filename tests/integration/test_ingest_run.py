import io
import json

import pandas as pd
import pytest
from PIL import Image

from mlim.catalog.description import load_description
from mlim.catalog.item import ITEM_SCHEMA, QUARANTINE_SCHEMA, ROW_LOG_SCHEMA
from mlim.catalog.quarantine import read_quarantine
from mlim.catalog.row_log import read_row_log
from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.files import read_json, sha256_of
from mlim.ingest.freshness import read_files
from mlim.ingest.run import check_counts
from mlim.shards.shard import read_manifest, read_shard
from mlim.steps.ingest import check_catalog, ingest
from mlim.workspace import Workspace
from mlim.writer import TOKENS, locked
from tests.small_catalog import described, recipe, small_catalog

pytestmark = pytest.mark.integration

TOLERANT = "ingest.max_quarantined_share=0.9"


@pytest.fixture
def catalog(tmp_path):
    return small_catalog(tmp_path)


def items(folder):
    return pd.concat([read_shard(folder / entry.file).to_pandas() for entry in read_manifest(folder)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_good_catalog_becomes_items(catalog):
    catalog.rows[0] |= {"sku": "0007", "title": "NA", "product": "Lamp "}
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
        "clean_texts": True,
        "field_labels": {"colour": "colour"},
        "read_files": read_files(load_description(catalog.description), catalog.description),
        "source": {},
        "missing_words": {},
        "pictures": {"rows_with_several": 0, "beyond_most": 0, "unusable": {}},
    }
    found = items(folder)
    assert list(found.columns) == ITEM_SCHEMA.names
    assert list(found.id) == [row["sku"] for row in catalog.rows]
    assert list(found.family.isna()) == [False, True, False, False, False, False]
    first = found.iloc[0]
    assert (first.id, first.text, first.family) == ("0007", "NA; colour: red", "Lamp")
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
    "refused format": (refused_format, "format-not-allowed", False),
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
    row_log = read_row_log(catalog.work().items).to_pandas()
    assert list(row_log.columns) == ROW_LOG_SCHEMA.names
    assert list(row_log.row) == list(range(1, 3 + len(BAD_ROWS)))
    assert list(row_log.reason[1:-1]) == list(aside.reason)


def test_more_decoding_processes_than_the_cores_can_use_are_refused_before_work(catalog):
    """Point 24: nothing is started, and what was ingested before stays."""
    catalog.ingest()
    before = contents(catalog.work().items)
    with pytest.raises(InputError, match=r"ingest\.workers is 99999"):
        catalog.ingest("ingest.workers=99999")
    with pytest.raises(InputError, match=r"ingest\.workers is 99999"):
        check_catalog(recipe("ingest.workers=99999"), catalog.description, catalog.work())
    assert contents(catalog.work().items) == before


def test_too_many_bad_rows_stop_the_run_and_keep_the_last_good_items(catalog):
    catalog.ingest()
    before = contents(catalog.work().items)
    (catalog.images / "2.png").write_text("no picture")
    catalog.rows[4]["sku"] = ""
    with pytest.raises(DataError) as caught:
        catalog.ingest()
    message = str(caught.value)
    kept = catalog.work().root / "items.refused" / "quarantine.parquet"
    for part in ("2 of 6 rows (33.3%)", "(20.0%)", "empty-id 1, not-an-image 1", str(kept)):
        assert part in message
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


def test_missing_columns_are_all_reported_with_the_nearest_name(catalog):
    columns = {"id": "skuu", "image": "picture", "family": "product", "text": ["titel"]}
    with pytest.raises(InputError) as caught:
        catalog.ingest(columns=columns)
    first, second = caught.value.problems
    assert "no column `skuu` (did you mean `sku`?)" in first
    assert "no column `titel` (did you mean `title`?)" in second


@pytest.mark.parametrize(("family", "message"), [("p", "holds only one family"), ("", "empty in every row")])
def test_one_family_is_no_catalog_to_split(catalog, family, message):
    for row in catalog.rows:
        row["product"] = family
    for check in (
        lambda: catalog.ingest(),
        lambda: check_catalog(recipe(), catalog.description, catalog.work()),
    ):
        with pytest.raises(InputError, match=message):
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
    from mlim.sources.table import TableSource

    states = iter(range(9))
    monkeypatch.setattr(TableSource, "state", lambda self: str(next(states)))
    with pytest.raises(InputError, match="changed while it was read"):
        catalog.ingest()
    assert not catalog.work().items.exists()


def test_what_was_refused_of_a_file_that_cannot_be_read_on_is_kept(catalog, capsys):
    """Point 5: rows are judged as far as the source can be read, the last good items and finished shards stay."""
    catalog.ingest("ingest.rows_per_shard=2")
    before = {path.name for path in catalog.work().shards.iterdir()}
    catalog.rows[1]["sku"] = ""
    catalog.write()
    table = catalog.folder / "catalog.csv"
    (catalog.folder / "cut.csv").write_text(table.read_text() + 'x,1.png,p1,"the file ends in\na cell')
    with pytest.raises(InputError, match="a quote that opens in line 8 is never closed"):
        ingest(
            recipe("ingest.rows_per_shard=2"),
            catalog.write(table="cut.csv"),
            catalog.work(),
            Terminal(),
        )
    kept = catalog.work().root / "items.refused"
    assert read_quarantine(kept / "quarantine.parquet")[["row", "reason"]].values.tolist() == [[2, "empty-id"]]
    assert "empty-id: cut.csv row 2" in capsys.readouterr().err
    assert before <= {path.name for path in catalog.work().shards.iterdir()}
    assert len(read_row_log(catalog.work().items)) == 6


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


def test_two_runs_on_one_work_folder_do_not_mix(catalog, monkeypatch):
    """Point 20: called from Python too, a step takes the lock of the folder."""
    catalog.ingest()
    with locked(catalog.work(), recipe().record, "mlim run"):
        monkeypatch.delenv(TOKENS)  # as in another process
        with pytest.raises(MlimError, match=r"`mlim run` .* is writing there"):
            catalog.ingest()


def test_rows_are_judged_before_families_and_the_first_of_each_reason_are_quoted(catalog):
    """Point 5: refused rows are never blamed on the family column; the sentence names them and the quarantine stays."""
    for row in catalog.rows[1:]:
        row["sku"] = " "
    with pytest.raises(DataError) as caught:
        catalog.ingest()
    head, *quoted = str(caught.value).splitlines()
    assert "5 of 6 rows (83.3%)" in head
    assert "family" not in str(caught.value)
    assert quoted == [
        f"  empty-id: catalog.csv row {row}: the row has no id: the column sku is empty" for row in (2, 3, 4)
    ]
    kept = catalog.work().root / "items.refused"
    assert list(read_quarantine(kept / "quarantine.parquet").row) == [2, 3, 4, 5, 6]
    check_catalog(recipe(), catalog.description, catalog.work())  # leaves it to ingest, which keeps the quarantine


def test_the_quarantine_is_kept_when_the_families_are_too_few(catalog):
    """Point 5: what follows the judgement of rows does not lose it."""
    for row in catalog.rows:
        row["product"] = "p"
    catalog.rows[5] |= {"sku": "", "product": "other"}
    with pytest.raises(InputError, match="holds only one family, in the 5 rows that are not rejected"):
        catalog.ingest()
    assert list(read_quarantine(catalog.work().root / "items.refused" / "quarantine.parquet").reason) == ["empty-id"]
    assert not catalog.work().items.exists()


def test_the_first_refused_rows_are_quoted_when_all_went_well(catalog, capsys):
    """Point 5: a person sees which rows were quarantined, and no cell can steer the terminal."""
    catalog.rows[4]["picture"] = "\x1b[31mred.png"
    catalog.rows[3]["title"] = "two\nlines"
    path = catalog.write()
    ingest(recipe(), path, catalog.work(), Terminal())
    message = capsys.readouterr().err
    assert "missing-image: catalog.csv row 5 (004): " in message
    assert "\x1b[31mred" not in message
    assert "rows over several lines: 1" in message


def test_rows_that_are_lost_on_the_way_are_found_out(catalog, monkeypatch):
    """Point 1: the rows are counted where they leave the source, not where they arrive."""
    from mlim.ingest import run as room

    cut = room.cut_chunks
    monkeypatch.setattr(room, "cut_chunks", lambda rows, most: (chunk[:-1] for chunk in cut(rows, most)))
    with pytest.raises(MlimError, match="6 rows came in but 5 were ingested and 0 quarantined"):
        catalog.ingest()
    assert not catalog.work().items.exists()

"""The contact sheet of a catalog before and after it is ingested."""

import shutil

import pytest

from mlim.errors import InputError
from mlim.report.contact.gather import gather
from mlim.report.contact.lines import describe
from mlim.report.contact.numbers import tiles
from mlim.report.contact.page import contact_sheet, write_page
from mlim.report.contact.problems import find_problems
from mlim.report.contact.settings import ContactSettings
from tests.outline import Outline
from tests.small_catalog import small_catalog

pytestmark = pytest.mark.integration


SETTINGS = ContactSettings()


def page_of(workspace, out, settings=SETTINGS, catalog=None):
    summary = contact_sheet(catalog, workspace, out, settings)
    return out.read_text(encoding="utf-8"), summary


def test_after_ingest_the_source_keeps_its_columns_and_its_pictures_are_left_alone(tmp_path):
    catalog = small_catalog(tmp_path, rows=12)
    catalog.rows[3]["picture"] = "nowhere.png"
    catalog.ingest("ingest.max_quarantined_share=0.5")
    shutil.rmtree(catalog.images)
    catalog.images.mkdir()
    look = gather(catalog.description, catalog.work(), SETTINGS)
    assert look.source.samples == ()
    assert len(look.items) == 11
    (reason,) = look.reasons
    assert (reason.reason, reason.examples[0].row) == ("missing-image", 4)
    words = Outline(page_of(catalog.work(), tmp_path / "sheet.html", catalog=catalog.description)[0]).words
    assert "11 of 12 rows became items" in words
    assert "Source columns" in words


def test_a_source_is_shown_before_it_is_ingested(tmp_path):
    catalog = small_catalog(tmp_path, rows=30)
    catalog.rows[3]["title"] = catalog.rows[3]["colour"] = ""
    (catalog.images / "5.png").write_bytes(b"no picture")
    path, workspace = catalog.write(), catalog.work()
    look = gather(path, workspace, ContactSettings(items=30, distinct_limit=3))
    lines = list(describe(look))
    assert lines[0].endswith(": 30 rows")
    assert lines[1] == "families: 15 in column `product`, 14 with more than one item"
    assert "  title    96 % filled, over 3 values" in lines
    assert "  pattern 100 % filled, 1 values" in lines
    assert "a pair matches when equal: pattern" in lines
    assert any(line.startswith("  000: thing 0") for line in lines)
    write_page(look, tmp_path / "sheet.html")
    outline = Outline((tmp_path / "sheet.html").read_text())
    assert sum(address.startswith("data:image/jpeg") for address in outline.addresses) == 29
    assert "30 rows, not checked yet" in outline.words
    assert "1 row (3.3 %): no-text." in outline.words
    assert "not-an-image: 5.png" in outline.words
    assert "hidden from the model" in outline.words


def test_a_source_without_families_or_with_a_missing_column_is_reported(tmp_path):
    catalog = small_catalog(tmp_path)
    for row in catalog.rows:
        row["product"] = ""
    worst = find_problems(gather(catalog.write(), catalog.work(), SETTINGS))[0]
    assert (worst.tone, worst.sentence) == ("bad", "The family column `product` is empty: no split can be made.")
    path = catalog.write(columns={"id": "sku", "image": "picture", "family": "product", "text": ["titel"]})
    with pytest.raises(InputError, match=r"no column `titel`.*did you mean `title`"):
        gather(path, catalog.work(), SETTINGS)


def test_a_sample_of_a_source_is_the_same_every_time_and_within_its_size(tmp_path):
    catalog = small_catalog(tmp_path, rows=40)
    for row in catalog.rows[:12]:
        row["product"] = "rest"
    path, settings = catalog.write(), ContactSettings(items=7)
    looks = [gather(path, catalog.work(), settings) for _ in range(2)]
    first, again = (look.source for look in looks)
    numbers = [sample.row.row for sample in first.samples]
    assert len(numbers) == 7
    assert numbers == sorted(set(numbers))
    assert numbers == [sample.row.row for sample in again.samples]
    assert numbers != list(range(1, 8))
    (paired,) = [tile for tile in tiles(looks[0]) if tile.name == "Rows that may be in pairs"]
    assert (paired.value, paired.note) == ("70.0 %", "in families of 2 to 8; 12 are in larger ones")


def test_columns_are_counted_as_they_are_inherited(tmp_path):
    """Point 8: the sheet counts the values that ingest reads, not the blanks of the export."""
    catalog = small_catalog(tmp_path)
    for row in catalog.rows[1::2]:
        row["title"] = ""
    columns = {"id": "sku", "image": "picture", "family": "product", "text": ["title"], "inherit": ["title"]}
    look = gather(catalog.write(columns=columns), catalog.work(), SETTINGS)
    assert look.source.columns["title"].filled == 6

"""Rows of variants that leave blank what the first row of their product says."""

import pytest
import yaml

from mlim.catalog.description import CatalogDescription
from mlim.config import parse
from mlim.errors import InputError
from mlim.ingest import inherit as room
from mlim.ingest.screen import NO_TEXT, screen_rows
from mlim.sources.base import RawRow
from mlim.sources.starter import starter_yaml
from tests.shop_tables import write_variants


@pytest.fixture
def export(tmp_path):
    return write_variants(tmp_path)


COLUMNS = {"id": "sku", "image": "photo", "family": "handle", "text": ["title", "type"]}


def described(**changes):
    values = {"table": "t.csv", "columns": {**COLUMNS, "inherit": ["title", "type"], **changes.pop("columns", {})}}
    return parse(CatalogDescription, {**values, **changes}, "catalog.yaml")


def screened(rows, description):
    """The texts, or reasons, of rows given as (handle, title, type)."""
    raw = [
        RawRow("t.csv", n, {"sku": f"s{n}", "photo": f"{n}.jpg", "handle": handle, "title": title, "type": kind})
        for n, (handle, title, kind) in enumerate(rows, start=1)
    ]
    return [row.rejection.reason if row.rejection else row.text for row in screen_rows(raw, description, 100)]


@pytest.mark.parametrize("blank", ["", "  ", "\u00a0", "NULL", "n/a"])
def test_a_blank_cell_takes_the_first_value_of_its_family(blank):
    """Point 8: rows of a family need not be neighbours, and an own value stays."""
    rows = [
        ("a", "Mug", "cup"),
        ("b", "Bag", blank),
        ("a", blank, blank),
        ("A ", blank, "bowl"),
        ("b", blank, "sack"),
        ("b", blank, blank),
        ("", blank, blank),
        ("c", blank, "toy"),
    ]
    found = [text.replace(blank, "") if blank.strip() else text for text in screened(rows, described())]
    assert found[0] == "Mug; cup"
    assert [found[2], found[3], found[4], found[5]] == ["Mug; cup", "Mug; bowl", "Bag; sack", "Bag; sack"]
    assert "Mug" not in found[6] + found[7]


def test_only_the_families_met_last_are_remembered(monkeypatch):
    """Point 8: memory has a bound, and which families are remembered depends on the order of the rows alone."""
    monkeypatch.setattr(room, "FAMILIES_REMEMBERED", 2)
    rows = [("a", "A", ""), ("b", "B", ""), ("a", "", ""), ("c", "C", ""), ("a", "", ""), ("b", "", "")]
    assert screened(rows, described()) == ["A", "B", "A", "C", "A", NO_TEXT]


def test_a_row_without_text_says_that_its_family_has_some():
    """Point 8: the sentence names the setting that helps, where it does."""
    raw = [
        RawRow("t.csv", n, {"sku": f"s{n}", "photo": "p.jpg", "handle": handle, "title": title, "type": ""})
        for n, (handle, title) in enumerate([("a", "Mug"), ("a", ""), ("b", "")])
    ]
    _, second, third = screen_rows(raw, described(columns={"inherit": []}), 100)
    assert second.rejection.detail == (
        "every text column is empty or markup alone (title, type); an earlier row of the family a has text: "
        "name the columns in columns.inherit"
    )
    assert "inherit" not in third.rejection.detail


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"family": None}, "columns.inherit needs columns.family"),
        ({"inherit": ["titel"]}, "columns.inherit: no column `titel` is read (did you mean `title`?)"),
        ({"inherit": ["sku", "handle"]}, "columns.inherit names `sku`, which each row must say itself"),
    ],
)
def test_what_cannot_be_inherited_is_reported(columns, message):
    """Point 8: a mistake in the list is one sentence."""
    with pytest.raises(InputError) as caught:
        described(columns=columns)
    assert message in str(caught.value)


def test_a_first_description_of_variant_rows(export):
    """Point 8: pictures are no family and no id, a blank is no value, and what to inherit is proposed."""
    text = starter_yaml(export)
    found = yaml.safe_load(text)["columns"]
    assert (found["id"], found["family"]) == ("SKU", "Handle")
    assert "8 of 32 rows are blank here" in text
    assert "# inherit: [Title, Type]" in text
    assert "# decided_by: [Colour]" in text
    assert "# decided_by: [Type]" not in text

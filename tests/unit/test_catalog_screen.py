import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_catalog import described

from mlim.catalog.description import CatalogDescription
from mlim.catalog.refusal import Refusal
from mlim.catalog.screen import screen_rows
from mlim.catalog.sources.base import RawRow

DESCRIPTION = CatalogDescription.model_validate(described())
GOOD = {"sku": "7", "picture": " 7.png ", "product": "p", "title": "a\n thing", "colour": "red", "pattern": "plain"}


def screened(*rows, limit=1000, problem=None):
    raw = [RawRow("x.csv", number, cells, problem) for number, cells in enumerate(rows, start=1)]
    return list(screen_rows(raw, DESCRIPTION, limit))


def test_a_good_row():
    [row] = screened(GOOD)
    assert (row.source, row.row, row.id, row.family, row.category) == ("x.csv", 1, "7", "p", None)
    assert (row.image, row.text) == ("7.png", "a thing; colour: red")
    assert json.loads(row.attributes) == {"title": "a thing", "colour": "red"}
    assert json.loads(row.facts) == {"pattern": "plain"}
    assert row.refusal is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sku": " "}, "empty-id"),
        ({"picture": " "}, "no-image-name"),
        ({"title": "", "colour": " "}, "no-text"),
        ({"title": "x" * 1001}, "cell-too-long"),
    ],
)
def test_what_the_cells_alone_rule_out(changes, reason):
    [row] = screened({**GOOD, **changes})
    assert row.refusal.reason == reason
    assert len(row.text) < 200


def test_the_first_of_equal_ids_is_kept():
    rows = screened(GOOD, {**GOOD, "title": "other"}, GOOD, {**GOOD, "sku": "8"})
    assert [row.refusal and row.refusal.reason for row in rows] == [None, "duplicate-id", "duplicate-id", None]


def test_a_row_that_could_not_be_read_keeps_its_reason_and_place():
    problem = Refusal("broken-line", "line 3 is not JSON")
    [row] = screened({}, problem=problem)
    assert (row.id, row.refusal) == ("", problem)


def test_a_row_that_moves_is_the_same_content():
    first, second = (next(screen_rows([RawRow("x.csv", number, GOOD)], DESCRIPTION, 100)) for number in (1, 2))
    assert first != second
    assert first.content() == second.content()


CELLS = st.fixed_dictionaries({name: st.text(max_size=20) for name in GOOD})


@given(rows=st.lists(CELLS, max_size=12))
def test_every_row_comes_out_once_and_accepted_ids_are_unique(rows):
    found = screened(*rows, limit=15)
    assert [row.row for row in found] == list(range(1, len(rows) + 1))
    accepted = [row.id for row in found if row.refusal is None]
    assert len(accepted) == len(set(accepted))

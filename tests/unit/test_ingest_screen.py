import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.catalog.description import CatalogDescription
from mlim.catalog.rejection import Rejection
from mlim.errors import DataError
from mlim.ingest.run import check_share
from mlim.ingest.screen import screen_rows
from mlim.sources.base import RawRow
from tests.small_catalog import described

DESCRIPTION = CatalogDescription.model_validate(described())
GOOD = {"sku": "7", "picture": " 7.png ", "product": "p", "title": "a\n thing", "colour": "red", "pattern": "plain"}


def screened(*rows, limit=1000, problem=None, description=DESCRIPTION):
    raw = [RawRow("x.csv", number, cells, problem) for number, cells in enumerate(rows, start=1)]
    return list(screen_rows(raw, description, limit))


def test_a_good_row():
    [row] = screened(GOOD)
    assert (row.source, row.row, row.id, row.family, row.category) == ("x.csv", 1, "7", "p", None)
    assert (row.image, row.text) == ("7.png", "a thing; colour: red")
    assert json.loads(row.attributes) == {"title": "a thing", "colour": "red"}
    assert json.loads(row.facts) == {"pattern": "plain"}
    assert row.rejection is None


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
    assert row.rejection.reason == reason
    assert len(row.text) < 200


MARKED = {**GOOD, "title": "<p>a&nbsp;<b>soft</b> thing</p>", "colour": "red &amp; blue"}


def test_the_model_reads_words_and_the_attributes_stay_as_they_are_written():
    """Point 4: HTML is left out of the text alone."""
    [row] = screened(MARKED)
    assert row.text == "a soft thing; colour: red & blue"
    assert json.loads(row.attributes) == {"title": MARKED["title"], "colour": MARKED["colour"]}


def test_a_column_is_read_as_it_is_where_the_catalog_says_so():
    """Point 4: cleaning can be switched off, column by column."""
    columns = {**described()["columns"], "text": [{"column": "title", "clean": False}, "colour"]}
    description = CatalogDescription.model_validate(described(columns=columns))
    [row] = screened(MARKED, description=description)
    assert row.text == f"{MARKED['title']}; red & blue"


def test_a_text_of_nothing_but_markup_is_no_text():
    """Point 4: such a row is quarantined like an empty one."""
    [row] = screened({**GOOD, "title": "<br><p>&nbsp;</p>", "colour": ""})
    assert row.rejection.reason == "no-text"
    assert "markup" in row.rejection.detail


def test_a_catalog_without_markup_is_the_same_with_and_without_cleaning():
    """Point 4: the shards of clean catalogs keep their bytes: rows that are the same content make the same shard."""
    columns = {**described()["columns"], "text": [{"column": "title", "clean": False}]}
    cleaned = CatalogDescription.model_validate(described(columns={**columns, "text": ["title"]}))
    as_it_is = CatalogDescription.model_validate(described(columns=columns))
    rows = [{**GOOD, "sku": str(number), "title": f"size < {number} & R&D <3"} for number in range(5)]
    found = [[row.content() for row in screened(*rows, description=each)] for each in (cleaned, as_it_is)]
    assert found[0] == found[1]


def test_the_first_of_equal_ids_is_kept():
    rows = screened(GOOD, {**GOOD, "title": "other"}, GOOD, {**GOOD, "sku": "8"})
    assert [row.rejection and row.rejection.reason for row in rows] == [None, "duplicate-id", "duplicate-id", None]


def test_a_rejected_row_leaves_its_id_to_the_next():
    rows = screened({**GOOD, "picture": ""}, GOOD, {**GOOD, "title": "other"})
    assert [row.rejection and row.rejection.reason for row in rows] == ["no-image-name", None, "duplicate-id"]


def test_a_row_that_could_not_be_read_keeps_its_reason_and_place():
    problem = Rejection("broken-line", "line 3 is not JSON")
    [row] = screened({}, problem=problem)
    assert (row.id, row.rejection) == ("", problem)


def test_a_row_that_moves_is_the_same_content():
    first, second = (next(screen_rows([RawRow("x.csv", number, GOOD)], DESCRIPTION, 100)) for number in (1, 2))
    assert first != second
    assert first.content() == second.content()


CELLS = st.fixed_dictionaries({name: st.text(max_size=20) for name in GOOD})


@given(rows=st.lists(CELLS, max_size=12))
def test_every_row_comes_out_once_and_accepted_ids_are_unique(rows):
    found = screened(*rows, limit=15)
    assert [row.row for row in found] == list(range(1, len(rows) + 1))
    accepted = [row.id for row in found if row.rejection is None]
    assert len(accepted) == len(set(accepted))


def test_a_row_that_brings_a_further_picture_only_is_reported_as_such():
    """Point 8: a row without an id and a text of its own loses nothing; one with a text of its own needs an id."""
    further, other = {**GOOD, "sku": "", "picture": "8.png"}, {**GOOD, "sku": "", "title": "another thing"}
    _, *refused, stranger = screened(
        GOOD, further, {**further, "title": "", "colour": ""}, other, {**further, "product": "q"}
    )
    message = "the row has no id: the column sku is empty"
    more = "; if it only brings a further picture of p: list an item's pictures in one cell"
    assert [(row.rejection.reason, row.rejection.detail) for row in refused] == [
        ("empty-id", message + more),
        ("empty-id", message + more),
        ("empty-id", message),
    ]
    assert stranger.rejection == Rejection("empty-id", message)


@pytest.mark.parametrize(
    ("bad", "said", "advice"),
    [
        (
            3,
            "more than ingest.max_quarantined_share (20.0%)",
            "or raise the limit with --set ingest.max_quarantined_share",
        ),
        (6, "no row is left, whatever ingest.max_quarantined_share allows", "Mend the source"),
    ],
)
def test_a_higher_limit_is_offered_only_where_it_lets_rows_through(bad, said, advice, tmp_path, monkeypatch):
    monkeypatch.setattr("mlim.ingest.run.first_rejected", lambda path: [])
    counts = {"rows_in": 6, "quarantined": {"missing-image": bad}}
    with pytest.raises(DataError) as caught:
        check_share(counts, 0.2, tmp_path, tmp_path / "kept")
    message = str(caught.value)
    assert f"rows ({bad / 6:.1%}) were quarantined, {said}: missing-image {bad};" in message
    assert advice in message
    assert ("--set" in message) is (bad < 6)


@given(st.text(), st.text())
def test_attributes_and_facts_are_the_json_that_json_writes(title, pattern):
    [row] = screened({**GOOD, "title": title, "pattern": pattern})
    for written in (row.attributes, row.facts):
        assert written == json.dumps(json.loads(written), ensure_ascii=False)
    assert json.loads(row.attributes)["title"] == " ".join(title.split())
    assert {**json.loads(row.attributes), **json.loads(row.facts)}["pattern"] in (pattern, " ".join(pattern.split()))

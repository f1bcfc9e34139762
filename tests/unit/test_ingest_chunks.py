from hypothesis import given
from hypothesis import strategies as st

from mlim.ingest.chunks import cut_chunks
from mlim.ingest.screen import SourceRow


def row(identity, number=0):
    return SourceRow("x.csv", number, identity, None, None, "", "", "{}", "{}", None)


def cut(ids, most):
    return [[one.id for one in chunk] for chunk in cut_chunks([row(identity) for identity in ids], most)]


@given(ids=st.lists(st.text(max_size=2), max_size=60), most=st.integers(1, 20))
def test_chunks_hold_every_row_in_order_and_none_is_too_large(ids, most):
    chunks = cut(ids, most)
    assert [identity for chunk in chunks for identity in chunk] == ids
    assert all(0 < len(chunk) <= most for chunk in chunks)


IDS = [f"item-{number}" for number in range(1000)]
CHUNKS = {tuple(chunk) for chunk in cut(IDS, 20)}


@given(place=st.integers(0, len(IDS)), kind=st.sampled_from(["insert", "delete", "change"]))
def test_one_changed_row_changes_few_chunks(place, kind):
    changed = list(IDS)
    if kind == "insert":
        changed.insert(place, "new")
    else:
        changed[place : place + 1] = [] if kind == "delete" else ["new"]
    assert len(CHUNKS) > 60
    assert len({tuple(chunk) for chunk in cut(changed, 20)} - CHUNKS) <= 8


def test_more_rows_at_the_end_leave_the_earlier_chunks_alone():
    ids = [f"item-{number}" for number in range(1000)]
    before, after = cut(ids, 50), cut([*ids, *(f"new-{number}" for number in range(200))], 50)
    assert after[: len(before) - 1] == before[:-1]

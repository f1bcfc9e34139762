"""How often values are used, counted in buckets of their hashes, against counting them one by one."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.quality import uses
from mlim.quality.measures import given as where_given
from mlim.quality.uses import UseCounter, Uses, hash_columns

words = st.sampled_from(["", " ", "a", "b", "\x00", "é", "靴", "a long text of more than twelve bytes", "🙂"])
items = st.lists(st.tuples(words, words, words, st.none() | words), max_size=40)


def counted(rows: list[tuple[str, str, str, str | None]], chunk: int) -> Uses:
    names = ("id", "text", "image_sha256", "family")
    columns = list(zip(*rows, strict=True)) or [()] * 4
    table = pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})
    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        counter = UseCounter(Path(folder), len(rows))
        for start in range(0, max(len(rows), 1), chunk):
            part = table.slice(start, chunk)
            counter.add(slice(start, start + len(part)), hash_columns(part), where_given(part["family"]))
        return counter.count(pool)


@settings(deadline=None)
@given(items, st.integers(1, 15), st.integers(1, 9), st.integers(1, 6), st.integers(1, 20))
def test_values_are_counted_as_one_would_by_hand(rows, chunk, block, bucket, bits):
    """Neither chunks nor blocks nor buckets nor the filter change a count."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BLOCK", block), ("BUCKET", bucket), ("FILTER_BITS", bits)):
            patch.setattr(uses, name, value)
        found = counted(rows, chunk)
    for place, name in enumerate(("id", "text", "picture", "family")):
        by_hand = Counter(row[place] for row in rows)
        assert found.columns[f"{name}_uses"].tolist() == [
            by_hand[row[place]] if row[place] is not None else 0 for row in rows
        ]
    families: dict[str, set[str]] = {}
    for _, _, picture, family in rows:
        families.setdefault(picture, set()).update([] if family is None else [family])
    assert found.columns["picture_families"].tolist() == [len(families[row[2]]) for row in rows]
    assert found.families == len({row[3] for row in rows} - {None})
    assert found.has_family.tolist() == [row[3] is not None for row in rows]


def test_counts_take_no_more_room_than_they_need():
    rows = [(f"item {number}", "one text", f"picture {number % 3}", None) for number in range(300)]
    found = counted(rows, 100)
    assert {name: column.dtype for name, column in found.columns.items()} == {
        "id_uses": np.uint8,
        "text_uses": np.uint16,
        "picture_uses": np.uint8,
        "family_uses": np.uint8,
        "picture_families": np.uint8,
    }

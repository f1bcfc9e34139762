"""What validation measures of each item, in chunks over the shards."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.catalog.item import ROW_LOG_SCHEMA
from mlim.errors import InputError
from mlim.files import sha256_of
from mlim.quality import chunks, measures
from mlim.quality.chunks import chunks_of, in_order, read_chunk, read_values, sample_places, shard_places
from mlim.quality.languages import check_languages, guess_languages
from mlim.quality.measures import RowLog, measure
from mlim.quality.uses import count_uses
from mlim.shards.shard import ShardEntry, read_manifest, read_shard, shard_name, write_manifest, write_shard
from mlim.steps.validate import _too_many_rejected


@dataclass(frozen=True)
class Measured:
    """What is measured of all items of a workspace, chunk after chunk."""

    columns: dict
    row_log_items: int


def measured(workspace, rows=1000):
    chunks, log = list(chunks_of(read_manifest(workspace.items), rows)), RowLog(workspace.items)
    with TemporaryDirectory() as spill:
        uses = count_uses(workspace.items, chunks, Path(spill)).columns
    parts = [measure_next(workspace.items, chunk, log, uses) for chunk in chunks]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Measured(columns, log.given + log.count_rest())


def measure_next(folder, chunk, log, uses):
    found = measure(read_chunk(folder, chunk), chunk, log.take(chunk.stop - chunk.start), uses)
    names = {"category": found.categories, "source": found.sources}
    return found.columns | {name: np.array(names[name], dtype=object)[found.columns[name]] for name in names}


def rewrite(workspace, change):
    """Change the items of the first shard."""
    entries = read_manifest(workspace.items)
    path = workspace.items / entries[0].file
    items = [change(item) for item in read_shard(path).to_pylist()]
    path.unlink()
    write_shard(path, items)
    renew(workspace)


def renew(workspace):
    """Write the manifest of the shards as they are."""
    paths = [workspace.items / entry.file for entry in read_manifest(workspace.items)]
    entries = [ShardEntry(p.name, len(read_shard(p)), p.stat().st_size, sha256_of(p)) for p in paths]
    write_manifest(workspace.items, entries)


@given(st.lists(st.integers(0, 12), max_size=20), st.integers(1, 30))
def test_chunks_hold_every_item_once_and_whole_shards(sizes, rows):
    entries = [ShardEntry(shard_name(number), size, 0, "") for number, size in enumerate(sizes)]
    cut = list(chunks_of(entries, rows))
    assert [entry for chunk in cut for entry in chunk.entries] == entries
    assert [place for chunk in cut for place in range(chunk.start, chunk.stop)] == list(range(sum(sizes)))
    assert all(chunk.stop - chunk.start <= max(rows, max(sizes)) for chunk in cut)
    for chunk in cut:
        names, positions = shard_places(chunk)
        wanted = [(entry.file, position) for entry in chunk.entries for position in range(entry.items)]
        assert list(zip(names.to_pylist(), positions.tolist(), strict=True)) == wanted


def test_the_measures_do_not_depend_on_the_chunks(tiny_workspace):
    whole, split = measured(tiny_workspace), measured(tiny_workspace, rows=1)
    assert whole.columns.keys() == split.columns.keys()
    assert all(np.array_equal(whole.columns[name], split.columns[name]) for name in whole.columns)
    assert whole.row_log_items == split.row_log_items == 40
    assert len(whole.columns["row"]) == 40


def test_values_are_counted_over_all_items(tiny_workspace):
    columns = measured(tiny_workspace, rows=1).columns
    items = [item for entry in read_manifest(tiny_workspace.items) for item in _items(tiny_workspace, entry)]
    for name, column in (("text", "text_uses"), ("family", "family_uses"), ("image_sha256", "picture_uses")):
        counted = Counter(item[name] for item in items)
        assert columns[column].tolist() == [counted[item[name]] for item in items]
    assert columns["row"].tolist() == list(range(1, 41))
    assert columns["in_row_log"].all()


def _items(workspace, entry):
    return read_shard(workspace.items / entry.file).to_pylist()


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ({"text": "靴 ٣"}, "text_readable", True),
        ({"text": "!? 🙂"}, "text_readable", False),
        ({"text": "e" * 7}, "text_characters", 7),
        ({"text": "😀é"}, "text_characters", 2),
        ({"id": "a b"}, "id_tidy", True),
        ({"id": " a"}, "id_tidy", False),
        ({"id": "a\x00"}, "id_tidy", False),
        ({"image_sha256": "xyz"}, "picture_named", False),
        ({"image_hash": "0" * 15}, "picture_named", False),
        ({"image_width": 10, "image_height": 25}, "aspect_ratio", 2.5),
        ({"image_width": 0, "image_height": 25}, "aspect_ratio", 25),
        ({"family": None}, "family_uses", 0),
        ({"family": None}, "family_named", True),
        ({"family": ""}, "family_named", False),
        ({"id": "unknown"}, "in_row_log", False),
    ],
)
def test_one_item(own_workspace, change, name, value):
    rewrite(own_workspace, lambda item: item | (change if item["id"] == "item-003" else {}))
    assert measured(own_workspace).columns[name][3] == value


@pytest.mark.parametrize("kept", [0, 12, 39])
def test_a_row_log_that_is_too_short_leaves_items_unknown(own_workspace, kept):
    path = own_workspace.items / "ledger.parquet"
    pq.write_table(pq.read_table(path).slice(0, kept), path)
    found = measured(own_workspace, rows=10)
    assert found.columns["in_row_log"].tolist() == [True] * kept + [False] * (40 - kept)
    assert found.row_log_items == kept


def test_rows_that_were_set_aside_are_passed_over(own_workspace):
    path = own_workspace.items / "ledger.parquet"
    lines = pq.read_table(path).to_pylist()
    bad = {"source": "b.csv", "row": 900, "id": "x", "shard": None, "position": None, "reason": "no-text"}
    mixed = [line for pair in zip(lines, [bad] * 40, strict=True) for line in pair]
    pq.write_table(pa.Table.from_pylist([*mixed, lines[0]], schema=ROW_LOG_SCHEMA), path)
    found = measured(own_workspace, rows=10)
    assert found.columns["in_row_log"].all()
    assert found.row_log_items == 41
    assert set(found.columns["source"]) == {"tiny.csv"}


def test_shards_of_another_shape_are_named(own_workspace):
    path = own_workspace.items / read_manifest(own_workspace.items)[0].file
    table = read_shard(path).drop_columns(["image_hash"])
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    renew(own_workspace)
    with pytest.raises(InputError, match=r"part-00000\.arrow: has other columns"):
        measured(own_workspace)


def test_samples_are_the_same_each_time_and_read_from_any_shard(tiny_workspace):
    every = np.ones(40, dtype=bool)
    places = sample_places(every, 7, seed=5)
    assert len(set(places.tolist())) == 7
    assert places.tolist() == sample_places(every, 7, seed=5).tolist() == sorted(places.tolist())
    assert sample_places(every[:3], 7, seed=5).tolist() == [0, 1, 2]
    entries = read_manifest(tiny_workspace.items)
    assert read_values(tiny_workspace.items, entries, places, "id") == [f"item-{place:03d}" for place in places]


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 10), st.integers(1, 9))
def test_a_sample_is_drawn_from_the_list_of_all_candidates(flags, count, block):
    """A list of a hundred million places would be too large: the places are found block by block."""
    candidates = np.array(flags, dtype=bool)
    listed = np.flatnonzero(candidates)
    drawn = listed if len(listed) <= count else np.sort(_choice(listed, count))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "RANKED_AT_A_TIME", block)
        assert sample_places(candidates, count, seed=3).tolist() == drawn.tolist()


def _choice(listed, count):
    return np.random.default_rng(3).choice(listed, count, replace=False, shuffle=False)


@given(st.lists(st.text("0123456789abcdefABg é", min_size=3, max_size=5), max_size=6), st.booleans())
def test_hexadecimal_digits_are_known_with_and_without_an_expression(values, even):
    """The bytes of all values tell at once when all are good; else each is looked at."""
    found = pa.chunked_array([pa.array(["", *(["0a9f"] * len(values) if even else values)], pa.string())[1:]])
    said = measures._hexadecimal(found, 4)
    assert said.tolist() == [re.fullmatch("[0-9a-f]{4}", value) is not None for value in found.to_pylist()]


def test_results_come_in_order_and_a_few_ahead():
    started = []
    with ThreadPoolExecutor(3) as pool:
        results = in_order(pool, lambda work: started.append(work) or work, range(20), ahead=2)
        assert next(results) == 0
        assert max(started) <= 2
        assert list(results) == list(range(1, 20))


def test_languages_of_longer_texts_are_told_apart():
    texts = [
        "A sleeveless top in soft cotton jersey with a V-neck and a curved hem",
        "Zapatos de cuero negro para hombre con suela de goma",
        "Eine Schutzhülle aus weichem Kunststoff für das Telefon",
    ]
    assert guess_languages(texts) == ["en", "es", "de"]
    check_languages(["en", "es"])
    with pytest.raises(InputError, match="unknown english"):
        check_languages(["english"])


def test_a_higher_limit_is_offered_only_where_it_lets_items_through():
    some, every = (_too_many_rejected(96, {"small-image": rejected}, 0.2) for rejected in (48, 96))
    assert some.endswith("or leave these items out with --set validation.max_quarantined_share=0.5")
    assert every == (
        "96 of 96 items were rejected (small-image 96): no item is left, whatever validation.max_quarantined_share "
        "allows; correct the catalog"
    )

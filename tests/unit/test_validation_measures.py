"""What validation measures of each item, in chunks over the shards."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.catalog.item import ROW_LOG_SCHEMA
from mlim.errors import InputError
from mlim.quality.languages import check_languages, guess_languages
from mlim.quality.measures import chunks_of, measure_items, read_values, sample_places, shard_places
from mlim.shards.shard import ShardEntry, read_manifest, read_shard, shard_name, write_shard


def measured(workspace, rows=1000):
    return measure_items(workspace.items, list(chunks_of(read_manifest(workspace.items), rows)))


def rewrite(workspace, change):
    """Change the items of the first shard; the manifest's hashes are not looked at here."""
    path = workspace.items / read_manifest(workspace.items)[0].file
    items = [change(item) for item in read_shard(path).to_pylist()]
    path.unlink()
    write_shard(path, items)


@given(st.lists(st.integers(0, 12), max_size=20), st.integers(1, 30))
def test_chunks_hold_every_item_once_and_whole_shards(sizes, rows):
    entries = [ShardEntry(shard_name(number), size, 0, "") for number, size in enumerate(sizes)]
    chunks = list(chunks_of(entries, rows))
    assert [entry for chunk in chunks for entry in chunk.entries] == entries
    assert [place for chunk in chunks for place in range(chunk.start, chunk.stop)] == list(range(sum(sizes)))
    assert all(chunk.stop - chunk.start <= max(rows, max(sizes)) for chunk in chunks)
    for chunk in chunks:
        names, positions = shard_places(chunk)
        wanted = [(entry.file, position) for entry in chunk.entries for position in range(entry.items)]
        assert list(zip(names.to_pylist(), positions.tolist(), strict=True)) == wanted


def test_the_measures_do_not_depend_on_the_chunks(tiny_workspace):
    whole, split = measured(tiny_workspace), measured(tiny_workspace, rows=1)
    assert whole.columns.keys() == split.columns.keys()
    assert all(np.array_equal(whole.columns[name], split.columns[name]) for name in whole.columns)
    assert (whole.categories, whole.sources, whole.row_log_items) == (split.categories, split.sources, 40)
    assert len(whole) == 40


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
    assert found.sources == ["tiny.csv"]


def test_shards_of_another_shape_are_named(own_workspace):
    path = own_workspace.items / read_manifest(own_workspace.items)[0].file
    table = read_shard(path).drop_columns(["image_hash"])
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=r"part-00000\.arrow: has other columns"):
        measured(own_workspace)


def test_samples_are_the_same_each_time_and_read_from_any_chunk(tiny_workspace):
    places = sample_places(np.arange(40), 7, seed=5)
    assert len(set(places.tolist())) == 7
    assert places.tolist() == sample_places(np.arange(40), 7, seed=5).tolist() == sorted(places.tolist())
    assert sample_places(np.arange(3), 7, seed=5).tolist() == [0, 1, 2]
    chunks = list(chunks_of(read_manifest(tiny_workspace.items), 1))
    assert read_values(tiny_workspace.items, chunks, places, "id") == [f"item-{place:03d}" for place in places]


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

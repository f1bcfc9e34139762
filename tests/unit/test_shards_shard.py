"""Shards: what is written is read back, and nothing that changed on the disk is read as if it had not."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import _item

from mlim.catalog.item import ITEM_SCHEMA
from mlim.errors import InputError
from mlim.files import sha256_of
from mlim.shards.shard import (
    ShardEntry,
    picture_ranges,
    read_manifest,
    read_shard,
    shard_name,
    verify_shards,
    write_manifest,
    write_shard,
)

SHARDS, ROWS, SIZE = 3, 4, 16
FLIPS = 200


def items_of(shard: int) -> list[dict]:
    return [_item(shard * ROWS + row, SIZE) for row in range(ROWS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    entries = []
    for number in range(SHARDS):
        path = tmp_path / shard_name(number)
        write_shard(path, items_of(number))
        entries.append(ShardEntry(path.name, ROWS, path.stat().st_size, sha256_of(path)))
    write_manifest(tmp_path, entries)
    return tmp_path


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def test_items_come_back_as_they_were_written(folder):
    table = read_shard(folder / shard_name(1))
    assert table.schema == ITEM_SCHEMA
    assert table.to_pylist() == pa.Table.from_pylist(items_of(1), schema=ITEM_SCHEMA).to_pylist()
    assert read_shard(folder / shard_name(1), ["id"]).to_pylist() == [{"id": item["id"]} for item in items_of(1)]


def test_equal_items_give_equal_bytes(folder, tmp_path):
    write_shard(tmp_path / "again", items_of(2))
    assert (tmp_path / "again").read_bytes() == (folder / shard_name(2)).read_bytes()


def test_pictures_lie_where_their_ranges_say(folder):
    data = (folder / shard_name(0)).read_bytes()
    found = [
        data[start : start + length] for start, length in zip(*picture_ranges(folder / shard_name(0)), strict=True)
    ]
    assert found == [item["image"] for item in items_of(0)]


def test_an_empty_shard_has_no_pictures(tmp_path):
    write_shard(tmp_path / "empty", [])
    assert [len(part) for part in picture_ranges(tmp_path / "empty")] == [0, 0]


def test_pictures_of_a_compressed_file_are_refused_not_read_from_the_wrong_place(tmp_path):
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    table = pa.Table.from_pylist(items_of(0), schema=ITEM_SCHEMA)
    with pa.OSFile(str(tmp_path / "small"), "wb") as sink, pa.ipc.new_file(sink, ITEM_SCHEMA, options=options) as out:
        out.write_table(table)
    with pytest.raises(InputError, match=r"small: is not a readable shard .*run `mlim ingest` again"):
        picture_ranges(tmp_path / "small")


def test_whole_shards_pass(folder):
    entries = read_manifest(folder)
    assert [entry.file for entry in entries] == [shard_name(number) for number in range(SHARDS)]
    verify_shards(folder, entries)


def test_every_flipped_bit_is_caught_and_its_shard_named(folder):
    entries = read_manifest(folder)
    draw = np.random.default_rng(0)
    for _ in range(FLIPS):
        entry = entries[draw.integers(SHARDS)]
        bit = int(draw.integers(entry.bytes * 8))
        flip(folder / entry.file, bit)
        with pytest.raises(InputError, match=rf": {entry.file} changed since it was written"):
            verify_shards(folder, entries)
        flip(folder / entry.file, bit)
    verify_shards(folder, entries)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_missing_and_a_cut_shard_are_named(folder, damage):
    damage(folder / shard_name(1))
    with pytest.raises(InputError, match=re.escape(f"{folder}: {shard_name(1)} changed since it was written")):
        verify_shards(folder, read_manifest(folder))


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0 and nothing else"])
def test_a_file_that_is_no_shard_is_explained(tmp_path, content):
    (tmp_path / "part").write_bytes(content)
    for read in (read_shard, picture_ranges):
        with pytest.raises(InputError, match="is not a readable shard"):
            read(tmp_path / "part")


def test_a_folder_without_a_manifest_names_the_step(tmp_path):
    with pytest.raises(InputError, match="run `mlim ingest` first"):
        read_manifest(tmp_path)

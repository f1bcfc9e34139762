"""What names the content of items is computed once for each shard, and follows texts, pictures and columns."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlim.matching import item_digests as module
from mlim.matching.item_digests import item_digests
from mlim.shards.items import open_shards


@pytest.fixture
def index(own_workspace):
    return pq.read_table(own_workspace.valid / "index.parquet")


def test_the_digests_of_a_shard_are_kept_and_are_those_of_its_items(own_workspace, index, tmp_path, monkeypatch):
    shards = open_shards(own_workspace.items, tmp_path)
    found = item_digests(shards, index, tmp_path)
    assert found["id"].to_pylist() == index["id"].to_pylist()
    shard, place = (index[name][3].as_py() for name in ("shard", "position"))
    assert found["content"][3] == module._computed(shards.folder / shard)["content"][place]
    assert len({*found["content"].to_pylist()}) == len(found)
    monkeypatch.setattr(module, "_computed", None)  # nothing is read again
    assert item_digests(shards, index.slice(2, 5), tmp_path).equals(found.slice(2, 5).combine_chunks())


def test_only_the_shard_that_changed_is_read(own_workspace, index, tmp_path, monkeypatch):
    shards = open_shards(own_workspace.items, tmp_path)
    before = item_digests(shards, index, tmp_path)
    [kept] = tmp_path.glob("item-digests-*.parquet")
    table = pq.read_table(kept)
    pq.write_table(table.slice(1), kept)
    read, computed = [], module._computed
    monkeypatch.setattr(module, "_computed", lambda path: (read.append(path.name), computed(path))[1])
    assert item_digests(shards, index, tmp_path).equals(before)
    assert read == [shards.entries[0].file]
    kept.write_bytes(b"broken")
    assert item_digests(shards, index, tmp_path).equals(before)
    assert len(read) == 1 + len(shards.entries)


@pytest.mark.parametrize(
    ("column", "value", "changes", "keeps"),
    [
        ("facts", '{"price": "1"}', "ruled", "content"),
        ("family", "another", "ruled", "content"),
        ("family", None, "ruled", "content"),
        ("attributes", '{"kind": "another"}', "content", "ruled"),
        ("text", "another", "content", "ruled"),
        ("image", b"another", "content", "ruled"),
    ],
)
def test_what_a_model_reads_and_what_only_rules_read_are_told_apart(
    own_workspace, tmp_path, column, value, changes, keeps
):
    """A stack reads attributes; families and facts decide no score."""
    shards = open_shards(own_workspace.items, tmp_path)
    shard = shards.folder / shards.entries[0].file
    table, before = module.read_shard(shard), module._computed(shard)
    values = pa.array([value] * len(table), table[column].type)
    changed = table.set_column(table.schema.get_field_index(column), column, values)
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, changed.schema) as writer:
        writer.write_table(changed)
    after = module._computed(tmp_path / "x.arrow")
    assert after[keeps].equals(before[keeps])
    assert not set(after[changes].to_pylist()) & set(before[changes].to_pylist())

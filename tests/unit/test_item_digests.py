"""What names the content of items is computed once for each shard, and follows texts, pictures and columns."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlim.matching import item_digests as module
from mlim.matching.item_cache import digest_of
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
    item = module.read_shard(shards.folder / shard).slice(place, 1).to_pylist()[0]
    assert found["content"][3].as_py() == digest_of(item["text"], item["image"]).hex()
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


def test_a_value_that_no_network_reads_changes_what_describes_an_item_alone(own_workspace, index, tmp_path):
    shards = open_shards(own_workspace.items, tmp_path)
    table = module.read_shard(shards.folder / shards.entries[0].file)
    [before] = [module._computed(shards.folder / shards.entries[0].file)]
    facts = pa.array(["{}"] * len(table), table["facts"].type)
    changed = table.set_column(table.schema.get_field_index("facts"), "facts", facts)
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, changed.schema) as writer:
        writer.write_table(changed)
    after = module._computed(tmp_path / "x.arrow")
    assert after["content"].equals(before["content"])
    assert not set(after["described"].to_pylist()) & set(before["described"].to_pylist())

"""Shards that lie on another machine."""

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mlim.errors import InputError
from mlim.shards.items import ItemStore, open_items

pytestmark = pytest.mark.integration


SHARD = "part-00001.arrow"


@pytest.fixture
def workspace(own_workspace):
    """One item was refused by validation, and the index is in an order of its own."""
    path = own_workspace.valid / "index.parquet"
    table = pq.read_table(path)
    table = table.filter(pc.not_equal(table["id"], "item-001"))
    pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    return own_workspace


def index_of(workspace) -> Path:
    return workspace.valid / "index.parquet"


@pytest.fixture
def store(workspace):
    return ItemStore.open(workspace.items, index_of(workspace))


@pytest.fixture
def served(workspace, tmp_path) -> Iterator[tuple[str, Path]]:
    """The items folder moved behind a web server on loopback: its address and where it lies now."""
    folder = tmp_path / "bucket" / "items"
    shutil.move(workspace.items, folder)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/items", folder
        server.shutdown()


def test_shards_are_fetched_once_over_http(served, workspace):
    url, folder = served
    store = ItemStore.open(url, index_of(workspace))
    expected = {path.name: path.read_bytes() for path in folder.glob("part-*.arrow")}
    assert sorted(path.read_bytes() for path in (workspace.cache / "shards").iterdir()) == sorted(expected.values())
    for path in folder.glob("part-*.arrow"):
        path.unlink()  # the manifest is asked for again, the shards are not
    again = ItemStore.open(url, index_of(workspace))
    assert again.jpeg("item-003") == store.jpeg("item-003")
    assert again.version == store.version


def test_a_fetched_shard_that_rots_is_fetched_again(served, workspace):
    url, _ = served
    store = ItemStore.open(url, index_of(workspace))
    expected = {item: store.jpeg(item) for item in store.ids}
    for path in (workspace.cache / "shards").iterdir():
        path.write_bytes(path.read_bytes()[::-1])
    again = ItemStore.open(url, index_of(workspace))
    assert {item: again.jpeg(item) for item in again.ids} == expected


def test_what_is_wrong_on_the_other_side_is_named(served, workspace):
    url, folder = served
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[::-1])
    with pytest.raises(InputError, match=f"{SHARD} is not what the manifest says"):
        ItemStore.open(url, index_of(workspace))
    (folder / SHARD).unlink()
    with pytest.raises(InputError, match=f"{SHARD} is missing"):
        ItemStore.open(url, index_of(workspace))
    assert not list((workspace.cache / "shards").glob(".*"))  # nothing half-fetched stays


def test_a_manifest_cannot_lead_out_of_the_cache(served, workspace):
    url, folder = served
    entries = json.loads((folder / "manifest.json").read_text())
    for changes in ({"file": "../items/part-00000.arrow"}, {"sha256": "../../x"}, {"more": 1}):
        (folder / "manifest.json").write_text(json.dumps([{**entries[0], **changes}]))
        with pytest.raises(InputError, match="not a manifest of shards"):
            ItemStore.open(url, index_of(workspace))


def test_the_recipe_says_where_the_shards_are(tiny_recipe, served, workspace):
    url, folder = served
    for place in (url, str(folder)):
        loader = tiny_recipe.loader.model_copy(update={"items": place})
        assert "item-003" in open_items(loader, workspace)
    with pytest.raises(InputError, match="run `mlim ingest` first"):
        open_items(tiny_recipe.loader, workspace)

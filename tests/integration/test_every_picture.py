"""Pre-training where items have several pictures."""

import hashlib
import json
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FAMILY_SIZE, SPLITS, _item, _jpeg, _shards
from PIL import Image

from mlim.catalog.item import ALL_PICTURES_SCHEMA, ITEM_SCHEMA
from mlim.data.collate import ItemCollator, Look, LookCollator
from mlim.data.image_cache import ImageCache
from mlim.data.tokenize import TextTokenizer
from mlim.files import sha256_of, sha256_of_bytes
from mlim.ingest.build import FORMAT, ShardPlan
from mlim.ingest.run import UNUSABLE_FILE
from mlim.ingest.screen import SourceRow
from mlim.pictures.decoding import library_versions
from mlim.pictures.folder import FolderPictures
from mlim.shards.items import ItemStore
from mlim.shards.shard import ShardEntry, read_manifest, read_shard, write_manifest, write_shard
from mlim.steps.ingest import ingest
from mlim.steps.looks import visible_pictures
from mlim.steps.pretrain import pretrain
from tests.small_catalog import COLOURS, described, recipe, small_catalog

pytestmark = pytest.mark.integration
FURTHER = 2
STEPS, BATCH = 12, 8


def with_further(number, items):
    """An item with two more pictures; those of the first item are its own and that of a test item."""
    more = [_jpeg("red", "solid", 1000 + FURTHER * number + place, 16) for place in range(FURTHER)]
    if number == 0:
        more[1] = items[-1]["image"]
    hashes = [hashlib.sha256(jpeg).hexdigest() for jpeg in more]
    return {**items[number], "further_images": more, "further_sha256": hashes}


@pytest.fixture
def gallery(own_workspace):
    """The tiny catalog with three pictures for each item."""
    items = [_item(number, 16) for number in range(len(SPLITS) * FAMILY_SIZE)]
    entries = []
    for name, shard in _shards([with_further(number, items) for number in range(len(items))]):
        path = own_workspace.items / name
        write_shard(path, shard, ALL_PICTURES_SCHEMA)
        entries.append(ShardEntry(name, len(shard), path.stat().st_size, sha256_of(path)))
    write_manifest(own_workspace.items, entries)
    return own_workspace


@pytest.fixture
def seen(monkeypatch):
    """How often each picture of each item is decoded; nothing is kept in memory."""
    counts, read = defaultdict(Counter), ItemStore.image

    def image(self, item, picture=0):
        counts[item][picture] += 1
        return read(self, item, picture)

    monkeypatch.setattr(ItemStore, "image", image)
    return counts


def test_pre_training_sees_every_picture_of_the_train_items_alone(tiny_recipe, gallery, quiet, seen):
    """Point 9: another picture in each epoch, never that of a held-out item; all else sees the first one."""
    recipe = tiny_recipe.model_copy(
        update={
            "pretrain": tiny_recipe.pretrain.model_copy(update={"steps": STEPS, "validate_every": STEPS}),
            "loader": tiny_recipe.loader.model_copy(update={"image_cache_mb": 0, "workers": 0}),
        }
    )
    summary = pretrain(recipe, gallery, quiet, "recon-mlm-mam", 0)
    assert summary["samples_seen"] == STEPS * BATCH
    train = SPLITS.count("train") * FAMILY_SIZE
    names = [f"item-{number:03d}" for number in range(len(SPLITS) * FAMILY_SIZE)]
    assert set(seen[names[0]]) == {0, 1}
    assert all(set(seen[item]) == {0, 1, 2} for item in names[1:train])
    assert all(set(seen[item]) <= {0} for item in names[train:])


RGB = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


class Kept:
    """A terminal that keeps what it is told."""

    def __init__(self, quiet):
        self.lines, self.progress, self.warn = [], quiet.progress, quiet.warn

    def say(self, line):
        self.lines.append(line)


def with_all(catalog, **image):
    """Ingest the catalog with all pictures of its cells."""
    columns = {**described()["columns"], "image": {"column": "picture", "choose": "all", **image}}
    return catalog.ingest(columns=columns)


def shards(workspace):
    return [read_shard(workspace.items / entry.file) for entry in read_manifest(workspace.items)]


def index(workspace, names=None):
    """What validation would accept: every item, or those of `names`."""
    workspace.valid.mkdir(parents=True, exist_ok=True)
    parts = []
    for entry, table in zip(read_manifest(workspace.items), shards(workspace), strict=True):
        placed = table.select(["id", "text", "attributes", "image_sha256"])
        placed = placed.append_column("shard", [[entry.file] * len(table)])
        parts.append(placed.append_column("position", [list(range(len(table)))]))
    table = pa.concat_tables(parts)
    kept = table if names is None else table.filter(pa.compute.is_in(table["id"], pa.array(names)))
    pq.write_table(kept, workspace.valid / "index.parquet")
    return ItemStore.open(workspace.items, workspace.valid / "index.parquet", workspace.cache)


def colour(picture):
    """The nearest colour of a picture (S, S, 3)."""
    mean = picture.reshape(-1, 3).mean(0)
    return min(RGB, key=lambda name: np.abs(mean - RGB[name]).sum())


@pytest.fixture
def catalog(tmp_path):
    """Six rows; every second lists its own picture, a white one and the next row's."""
    made = small_catalog(tmp_path)
    Image.new("RGB", (30, 30), "white").save(made.images / "white.png")
    for number in (0, 2, 4):
        made.rows[number]["picture"] = f"{number}.png|white.png|{number + 1}.png"
    return made


def test_an_item_keeps_every_picture_and_shows_the_first(catalog):
    """Point 9: one row of a shard holds all pictures of an item; texts and pictures are found by item and number."""
    summary = with_all(catalog)
    assert summary["ingested"] == 6
    assert summary["pictures"] == {"rows_with_several": 3, "beyond_most": 0, "unusable": {}}
    assert {table.schema for table in shards(catalog.work())} == {ALL_PICTURES_SCHEMA}
    store = index(catalog.work(), ["005", "004", "003", "000"])
    assert [colour(store.image(item)) for item in store.ids] == ["red", "red", "green", "blue"]
    assert [colour(store.image("000", picture)) for picture in range(3)] == ["red", "white", "green"]
    assert [colour(store.image("004", picture)) for picture in range(3)] == ["green", "white", "blue"]
    assert [len(store.further(item)) for item in store.ids] == [2, 0, 2, 0]
    assert store.further("000")[0] == store.further("004")[0] != store.further("000")[1]
    with pytest.raises(IndexError):
        store.image("003", 1)


def test_the_shards_of_other_catalogs_are_what_they_were(catalog, tmp_path):
    """Point 9: without `choose: all` no bytes and no keys change, whatever the cells list."""
    several = catalog.ingest()
    for row in catalog.rows:
        row["picture"] = row["picture"].partition("|")[0]
    single = catalog.ingest(work="single")
    assert several["data_version"] == single["data_version"]
    assert {table.schema for table in shards(catalog.work())} == {ITEM_SCHEMA}
    assert not (catalog.work().items / UNUSABLE_FILE).exists()
    store = FolderPictures(catalog.images, 10_000)
    row = SourceRow("t.csv", 1, "a", None, None, "0.png", "text", "{}", "{}", None)
    cells = ["a", None, None, "0.png", "text", "{}", "{}", "", store.fingerprint("0.png")]
    deciding = {"made by": [FORMAT, *library_versions(), pa.__version__], "settings": {"a": 1}, "rows": [cells]}
    assert ShardPlan.of([row], store, {"a": 1}, tmp_path).key == sha256_of_bytes(json.dumps(deciding).encode())


def test_the_first_of_several_is_said_to_be_taken(catalog, quiet):
    """Point 9: what is not read is counted and said."""
    terminal = Kept(quiet)
    summary = ingest(recipe(), catalog.write(), catalog.work(), terminal)
    assert summary["pictures"]["rows_with_several"] == 3
    assert "3 rows list several pictures; the first is taken (columns.image.choose)" in terminal.lines


def test_a_broken_picture_costs_itself_alone(catalog, quiet):
    """Point 9: a broken first one makes way for the next, a broken further one is left out; both are counted."""
    (catalog.images / "bad.png").write_bytes(b"no picture")
    catalog.rows[0]["picture"] = "bad.png|gone.png|white.png|1.png"
    catalog.rows[1]["picture"] = "1.png|bad.png"
    catalog.rows[3]["picture"] = "gone.png|bad.png"
    columns = {**described()["columns"], "image": {"column": "picture", "choose": "all"}}
    terminal = Kept(quiet)
    changed = recipe("ingest.max_quarantined_share=0.5")
    summary = ingest(changed, catalog.write(columns=columns), catalog.work(), terminal)
    assert summary["quarantined"] == {"missing-image": 1}
    assert summary["pictures"]["unusable"] == {"missing-image": 1, "not-an-image": 3}
    found = pq.read_table(catalog.work().items / UNUSABLE_FILE).to_pylist()
    assert [(one["row"], one["reason"]) for one in found] == [
        (1, "not-an-image"),
        (1, "missing-image"),
        (2, "not-an-image"),
        (4, "not-an-image"),
    ]
    assert any(line.startswith("4 pictures of rows that list several cannot be used") for line in terminal.lines)
    assert any("row 2 (001): bad.png cannot be decoded" in line for line in terminal.lines)
    store = index(catalog.work())
    assert [colour(store.image("000", picture)) for picture in range(2)] == ["white", "green"]
    assert store.further("001") == []
    assert ingest(changed, catalog.description, catalog.work(), quiet) == summary  # from the cache


def test_surplus_pictures_are_counted_and_repeated_ones_are_one(catalog):
    catalog.rows[0]["picture"] = "0.png,1.png,0.png,2.png,3.png,4.png"
    summary = with_all(catalog, most=3)
    assert summary["pictures"]["beyond_most"] == 2
    assert len(index(catalog.work()).further("000")) == 2


def test_every_picture_of_a_list_in_parquet_is_found(tmp_path, quiet):
    """Point 9: lists of bytes in a Parquet column; empty elements are passed over."""
    catalog = small_catalog(tmp_path)
    files = {name: (catalog.images / f"{number}.png").read_bytes() for number, name in enumerate(COLOURS)}
    cells = [[files["red"], None, files["blue"]], [b"", files["green"]], [], None, [files["blue"]]]
    columns = {name: [row[name] for row in catalog.rows[: len(cells)]] for name in catalog.rows[0]}
    table = pa.table({**columns, "picture": pa.array(cells, pa.list_(pa.binary()))})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    columns = {**described()["columns"], "image": {"column": "picture", "choose": "all"}}
    path = catalog.write(table="t.parquet", columns=columns)
    summary = ingest(recipe("ingest.max_quarantined_share=0.5"), path, catalog.work(), quiet)
    assert summary["quarantined"] == {"no-image-name": 2}
    store = index(catalog.work())
    seen = {item: [colour(store.image(item, n)) for n in range(1 + len(store.further(item)))] for item in store.ids}
    assert seen == {"000": ["red", "blue"], "001": ["green"], "004": ["blue"]}


def test_a_batch_holds_the_pictures_that_are_looked_at(catalog):
    with_all(catalog)
    store = index(catalog.work())
    tokenizer = TextTokenizer.learn((store.text(item) for item in store.ids), 60)
    kept = ImageCache(store, 1)
    batch = LookCollator(kept, tokenizer, 8)([Look("000", 1), Look("000", 0), Look("003", 0)])
    assert batch.ids == ["000", "000", "003"]
    assert [colour(picture.numpy()) for picture in batch.pixels.permute(0, 2, 3, 1)] == ["white", "red", "red"]
    plain = ItemCollator(kept, tokenizer, 8)(["000", "003"])
    assert plain.pixels.equal(batch.pixels[1:])
    assert plain.input_ids.equal(batch.input_ids[1:])


def test_a_held_out_items_picture_is_not_shown_with_another_item(catalog):
    """Point 9: what a test item is judged by is not seen in pre-training, byte for byte."""
    with_all(catalog)
    workspace = catalog.work()
    store = index(workspace)
    workspace.pairs.mkdir()
    splits = {"000": "train", "001": "test", "002": "train", "003": "train", "004": "test", "005": "validation"}
    table = pa.table({"id": list(splits), "split": list(splits.values())})
    pq.write_table(table, workspace.pairs / "items.parquet")
    visible = visible_pictures(store, workspace)
    assert (visible("000"), visible("002"), visible("003")) == ([0, 1], [0, 1, 2], [0])
    assert visible.hidden == 1

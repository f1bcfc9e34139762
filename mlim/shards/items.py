"""Random access to accepted items: texts and pictures by id, from files that are mapped or read in place."""

import json
import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import simplejpeg
from numpy.typing import NDArray

from mlim.errors import InputError, MlimError
from mlim.files import sha256_of
from mlim.recipe.data import LoaderConfig
from mlim.shards.locations import FILES_KEY, FURTHER, open_locations
from mlim.shards.mapped import MappedTable, Strings
from mlim.shards.remote import SCHEME, fetch_shards
from mlim.shards.shard import MANIFEST_FILE, Shards, read_manifest, verify_shards
from mlim.workspace import Workspace

ROWS_REMEMBERED = 1 << 16  # text and picture of an item are asked for one after the other, and a few epochs of it


class ItemStore:
    """The items of an index by id; memory holds only what is being looked at.

    It travels to another process as three paths: nothing is read, and no shard is verified, again.
    """

    def __init__(self, folder: Path, locations: Path, version: str) -> None:
        """Prefer `ItemStore.open`; `locations` is a file of mlim.shards.locations, its shards lie in `folder`."""
        self._folder, self._locations = folder, MappedTable(locations)
        self._find = lru_cache(ROWS_REMEMBERED)(self._search)
        self.version = version

    def __reduce__(self) -> tuple[type["ItemStore"], tuple[Path, Path, str]]:
        return ItemStore, (self._folder, self._locations.path, self.version)

    @classmethod
    def open(cls, items: Path | str, index: Path, cache: Path | None = None) -> Self:
        """The accepted items listed in `index` (valid/index.parquet), with pictures from the shards of `items`.

        `items` is a folder or an fsspec URL; `cache` keeps what is derived or fetched (null: `cache` beside the index's
        folder). Every shard is hashed: `InputError` names each one that is not what the manifest says, and says when
        the index does not belong to the shards.
        """
        if not index.is_file():
            raise InputError(f"{index} is missing; run `mlim validate` first")
        cache = cache or index.parent.with_name("cache")
        shards = open_shards(items, cache)
        return cls(shards.folder, open_locations(index, shards, cache), shards.version)

    @property
    def fingerprint(self) -> str:
        """Names the items, their order and their texts: equal for equal indexes of equal shards."""
        return self._locations.path.stem

    @property
    def ids(self) -> Strings:
        """The ids in the order of the index."""
        return Strings(self._table["id"])

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, item: object) -> bool:
        return isinstance(item, str) and self._find(item) is not None

    def missing(self, ids: Any) -> Any:
        """Those of `ids` (an Arrow array of strings) that are not in the index."""
        return ids.filter(pc.invert(pc.is_in(ids, value_set=self._table["id"])))

    def row(self, item: str) -> int:
        """The row of an item in the index; `KeyError` for an id that is not there."""
        row = self._find(item)
        if row is None:
            raise KeyError(item)
        return row

    def text(self, item: str) -> str:
        """What the model reads of an item; `KeyError` for an id that is not in the index."""
        text: str = self._table["text"][self.row(item)].as_py()
        return text

    def texts(self) -> Iterator[list[str]]:
        """All texts in the order of the index, some thousands at a time."""
        for batch in self._table.select(["text"]).to_batches():
            yield batch["text"].to_pylist()

    def id_batches(self) -> Iterator[list[str]]:
        """All ids in the order of the index, some thousands at a time."""
        for batch in self._table.select(["id"]).to_batches():
            yield batch["id"].to_pylist()

    def texts_at(self, rows: NDArray[np.int64]) -> list[str]:
        """The texts at these rows of the index (n,)."""
        found: list[str] = self._table["text"].take(pa.array(rows)).to_pylist()
        return found

    def ids_at(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids at these rows of the index (n,)."""
        found: list[str] = self._table["id"].take(pa.array(rows)).to_pylist()
        return found

    def columns(self, item: str) -> dict[str, str]:
        """The columns that the text of an item is made from, in order; "" where it has no value."""
        return self.columns_at(np.array([self.row(item)]))[0]

    def columns_at(self, rows: NDArray[np.int64]) -> list[dict[str, str]]:
        """The same of the items at these rows of the index (n,)."""
        cells = self._table["attributes"].take(pa.array(rows)).to_pylist()
        return [{name: value or "" for name, value in json.loads(cell).items()} for cell in cells]

    @property
    def has_further(self) -> bool:
        """Whether any item has pictures after its first one."""
        return FURTHER in self._table.schema.names

    def further(self, item: str) -> list[int]:
        """The digests (`digests_of`) of the pictures of an item after its first one, in order."""
        found = self._table[FURTHER][self.row(item)].as_py() if self.has_further else []
        return [picture["digest"] for picture in found]

    def further_digests(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """How many pictures every item has after its first one, in the order of the index, and all their digests."""
        if not self.has_further:
            return np.zeros(len(self), np.int64), np.empty(0, np.uint64)
        lists = self._table[FURTHER]
        digests = pc.struct_field(pc.list_flatten(lists), "digest")
        return pc.list_value_length(lists).to_numpy().astype(np.int64), digests.to_numpy()

    def jpeg(self, item: str, picture: int = 0) -> bytes:
        """The square picture of an item, its first or a further one (from 1), as JPEG bytes.

        `MlimError` when its shard is gone or was cut; `KeyError` and `IndexError` for what is not there.
        """
        row = self.row(item)
        file, offset, length = (self._table[name][row].as_py() for name in ("file", "offset", "length"))
        if picture:
            further = self._table[FURTHER][row][picture - 1].as_py()
            offset, length = further["offset"], further["length"]
        path = self._folder / self._files[file]
        with _opened(path) as shard:
            return _read_at(path, shard, offset, length)

    def jpegs_at(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        """The square pictures at these rows of the index (n,) as JPEG bytes, one open file at a time.

        Faster than `jpeg` for many items in the order of the index; errors as there.
        """
        places = self._table.select(["file", "offset", "length"]).take(pa.array(rows))
        files, offsets, lengths = (places[name].to_pylist() for name in places.schema.names)
        for file, of_file in groupby(range(len(files)), key=files.__getitem__):
            path = self._folder / self._files[file]
            with _opened(path) as shard:
                for place in of_file:
                    yield _read_at(path, shard, offsets[place], lengths[place])

    def image(self, item: str, picture: int = 0) -> NDArray[np.uint8]:
        """The picture of an item, its first or a further one (from 1), as a (size, size, 3) array, decoded now.

        The pixels are those of Pillow, in half the time. A shard's bytes are ours, and were hashed when it was opened.
        """
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(self.jpeg(item, picture))
        return pixels

    @cached_property
    def _table(self) -> Any:
        try:
            return self._locations.table
        except (pa.ArrowException, OSError) as error:
            raise MlimError(f"{self._locations.path}: cannot be read ({error}); delete it, it is made again") from None

    @cached_property
    def _files(self) -> list[str]:
        names: list[str] = json.loads(self._table.schema.metadata[FILES_KEY])
        return names

    def _search(self, item: str) -> int | None:
        """The row of an item, by bisection over the sorted ids: no dictionary of millions in every process."""
        ids, by_id = self._table["id"], self._table["by_id"]
        rank = bisect_left(range(len(ids)), item, key=lambda at: ids[by_id[at].as_py()].as_py())
        if rank == len(ids):
            return None
        row: int = by_id[rank].as_py()
        return row if ids[row].as_py() == item else None


def open_shards(items: Path | str, cache: Path) -> Shards:
    """The shards of `items`, a folder or an fsspec URL, each of them hashed; errors as `ItemStore.open`."""
    return fetch_shards(str(items), cache / "shards") if SCHEME in str(items) else _local_shards(Path(items))


def open_items(loader: LoaderConfig, workspace: Workspace) -> ItemStore:
    """The accepted items of a work folder, with pictures from where `loader` says; errors as `ItemStore.open`."""
    items = loader.items or workspace.items
    return ItemStore.open(items, workspace.valid / "index.parquet", workspace.cache)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The descriptor of a shard. No memory map: a file that was cut is an error then, not a dead process."""
    try:
        with path.open("rb", buffering=0) as shard:
            yield shard.fileno()
    except OSError as error:
        raise MlimError(f"{path}: cannot be read ({error.strerror}); run `mlim ingest` again") from None


def _read_at(path: Path, shard: int, offset: int, length: int) -> bytes:
    data = os.pread(shard, length, offset)
    if len(data) != length:
        raise MlimError(f"{path}: was cut while it was in use; run `mlim ingest` again")
    return data


def _local_shards(folder: Path) -> Shards:
    if not folder.is_dir():
        raise InputError(f"{folder} is missing; run `mlim ingest` first")
    entries = read_manifest(folder)
    verify_shards(folder, entries)
    return Shards(folder, entries, sha256_of(folder / MANIFEST_FILE))

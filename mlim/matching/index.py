"""Nearest neighbours of vectors by cosine, through faiss: an index on disk that follows the catalog.

Vectors lie in half precision in the cells of an inverted file; small catalogs have one cell, so every vector is
compared. Items of one batch are searched cell by cell with matrix products, which for all items of a catalog costs a
fraction of searching them one by one. With the same cells, an index that was updated finds what a new one finds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from faiss.contrib.inspect_tools import get_invlist
from numpy.typing import NDArray

from mlim.errors import InputError
from mlim.files import atomic_folder, read_json, write_json
from mlim.matching.vectors import Vectors

INDEX_FILE, ITEMS_FILE, STATE_FILE = "index.faiss", "items.parquet", "index.json"
FORMAT: Final = 1
CELLS_PER_ITEM: Final = 8  # sqrt(8 n) cells: finding the cells and looking into them then cost about the same
POINTS_PER_CELL: Final = 39  # training vectors; faiss warns of fewer
ROUNDS: Final = 8  # of k-means
GROWTH: Final = 4  # times what the cells were made for; then they are computed again
QUERIES_AT_ONCE: Final = 1 << 17
SPARE: Final = 8  # neighbours beyond k that are looked at, so that equal similarities are cut by number
DECIMALS: Final = 5  # of a similarity; beyond them the order of additions shows
_MIXERS_SEED: Final = 20261130

Numbers = NDArray[np.int64]


class Neighbours(NamedTuple):
    """Nearest neighbours: `second` is number `rank` (from 1) among those of `first`, at `similarity` (cosine)."""

    first: Numbers
    second: Numbers
    rank: Numbers
    similarity: NDArray[np.float32]


class Changes(NamedTuple):
    """How many items an update brought into the index, took out of it, and replaced by new vectors."""

    added: int
    removed: int
    changed: int


@dataclass(frozen=True)
class IndexSettings:
    """Up to `exact_below` items there is one cell; of more, `probes` are searched for each item. `seed`: of k-means."""

    exact_below: int = 50_000
    probes: int = 16
    seed: int = 0


class VectorIndex:
    """The vectors of some items; numbers stand for ids, and never mean another item than they once did."""

    def __init__(
        self, index: Any, ids: dict[str, int], digests: dict[str, int], origin: str, made_for: int, issued: int
    ) -> None:
        """Prefer `build` and `open`. `issued`: numbers given out so far; `made_for`: items the cells were made for."""
        self._index, self._ids, self._digests = index, ids, digests
        self.origin, self._made_for, self._issued = origin, made_for, issued
        self._mapped: Path | None = None  # the file in which the vectors still lie

    @classmethod
    def build(cls, vectors: Vectors, settings: IndexSettings) -> "VectorIndex":
        """A new index of all `vectors`, which are read block by block."""
        cells = cells_for(len(vectors.ids), settings.exact_below)
        index = _trained(vectors, cells, settings)
        made = cls(index, {}, {}, vectors.origin, len(vectors.ids), 0)
        made._add(vectors, np.arange(len(vectors.ids)), _digests(vectors))
        return made

    @classmethod
    def open(cls, folder: Path, origin: str, settings: IndexSettings) -> "VectorIndex":
        """The index in `folder`, its vectors memory-mapped. `InputError` when its vectors are not of this `origin`."""
        state = _read_state(folder)
        if state["origin"] != origin:
            raise InputError(
                f"{folder}: holds vectors of another model ({_short(state['origin'])}, not {_short(origin)}), which "
                "cannot be compared; delete the folder, it is made again"
            )
        try:
            index: Any = faiss.read_index(str(folder / INDEX_FILE), faiss.IO_FLAG_MMAP)
            table = pq.read_table(folder / ITEMS_FILE)
        except (RuntimeError, OSError, pa.ArrowException) as error:
            raise InputError(f"{folder}: cannot be read ({error}); delete the folder, it is made again") from None
        index.nprobe = settings.probes
        ids = table["id"].to_pylist()
        numbers, digests = (dict(zip(ids, table[name].to_pylist(), strict=True)) for name in ("number", "digest"))
        opened = cls(index, numbers, digests, origin, state["made_for"], state["issued"])
        opened._mapped = folder / INDEX_FILE
        return opened

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def outgrown(self) -> bool:
        """Whether the catalog has grown so much that a new index would be searched faster."""
        return self._index.nlist > 1 and len(self._ids) > GROWTH * self._made_for

    def save(self, folder: Path) -> None:
        """Write the index, all of it or nothing."""
        ids = list(self._ids)
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "number": pa.array(list(self._ids.values()), pa.int64()),
                "digest": pa.array([self._digests[item] for item in ids], pa.uint64()),
            }
        )
        state = {"format": FORMAT, "origin": self.origin, "made_for": self._made_for, "issued": self._issued}
        with atomic_folder(folder) as made:
            faiss.write_index(self._index, str(made / INDEX_FILE))
            pq.write_table(table, made / ITEMS_FILE)
            write_json(made / STATE_FILE, state)

    def update(self, vectors: Vectors) -> Changes:
        """Make the index hold exactly these vectors, changing only what differs.

        An opened index is read into memory for that (2 bytes for each number in it). `ValueError` for another origin.
        """
        if vectors.origin != self.origin:
            raise ValueError(f"vectors of {vectors.origin} for an index of {self.origin}")
        digests = _digests(vectors)
        old = [self._digests.get(item) for item in vectors.ids]
        new = np.array([known is None for known in old], dtype=bool)
        changed = np.array([known is not None and known != now for known, now in zip(old, digests, strict=True)], bool)
        gone = self._ids.keys() - set(vectors.ids)
        if not (new.any() or changed.any() or gone):
            return Changes(0, 0, 0)
        self._load()
        self._remove([*gone, *(vectors.ids[place] for place in np.flatnonzero(changed).tolist())])
        self._add(vectors, np.flatnonzero(new | changed), digests)
        return Changes(int(new.sum()), len(gone), int(changed.sum()))

    def neighbours(self, vectors: Vectors, k: int) -> Iterator[Neighbours]:
        """The `k` nearest other items of every item of `vectors`, block by block.

        Items are given by their places in `vectors.ids`, which must hold every item of the index. Only similarities
        above 0 count: an empty text is near to nothing.
        """
        place = np.full(self._issued, -1, dtype=np.int64)
        own = np.array([self._ids[item] for item in vectors.ids], dtype=np.int64)
        place[own] = np.arange(len(own))
        for start in range(0, len(own) if k else 0, QUERIES_AT_ONCE):
            stop = min(start + QUERIES_AT_ONCE, len(own))
            similarity, numbers = self._search(vectors.rows(start, stop), k + 1 + SPARE)
            found = np.where(numbers >= 0, place[numbers], -1)
            yield _nearest(np.arange(start, stop), found, similarity, k)

    def _search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], Numbers]:
        """The `k` nearest of the rows of `queries`: similarities and numbers (n, k), -1 where there are fewer."""
        _, cells = self._index.quantizer.search(queries, min(self._index.nprobe, self._index.nlist))
        order = np.argsort(cells, axis=None, kind="stable")
        wanted, rows = cells.ravel()[order], order // cells.shape[1]
        edges = np.flatnonzero(np.diff(wanted, prepend=-2, append=-2))
        heap = faiss.ResultHeap(len(queries), k, keep_max=True)
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            cell = int(wanted[start])
            size = self._index.invlists.list_size(cell) if cell >= 0 else 0
            if size:
                numbers, codes = get_invlist(self._index.invlists, cell)
                held = codes.view(np.float16).reshape(size, -1).astype(np.float32)
                chosen = np.ascontiguousarray(rows[start:stop])
                near, at = faiss.knn(queries[chosen], held, min(k, size), metric=faiss.METRIC_INNER_PRODUCT)
                heap.add_result_subset(chosen, near, numbers[at])
        heap.finalize()
        return heap.D, heap.I

    def _add(self, vectors: Vectors, places: Numbers, digests: Sequence[int]) -> None:
        for start in range(0, len(places), QUERIES_AT_ONCE):
            chosen = places[start : start + QUERIES_AT_ONCE]
            low, high = int(chosen[0]), int(chosen[-1]) + 1
            numbers = np.arange(self._issued, self._issued + len(chosen), dtype=np.int64)
            self._index.add_with_ids(np.ascontiguousarray(vectors.rows(low, high)[chosen - low]), numbers)
            self._issued += len(chosen)
            for place, number in zip(chosen.tolist(), numbers.tolist(), strict=True):
                self._ids[vectors.ids[place]], self._digests[vectors.ids[place]] = number, digests[place]

    def _remove(self, ids: Sequence[str]) -> None:
        numbers = np.array([self._ids.pop(item) for item in ids], dtype=np.int64)
        for item in ids:
            del self._digests[item]
        if len(numbers):
            self._index.remove_ids(faiss.IDSelectorBatch(numbers))

    def _load(self) -> None:
        """Bring a memory-mapped index, which is read-only, into memory."""
        if self._mapped is not None:
            probes, self._index = self._index.nprobe, faiss.read_index(str(self._mapped))
            self._index.nprobe, self._mapped = probes, None


def index_origin(folder: Path) -> str:
    """The origin of the vectors of the index in `folder`; `InputError` when it cannot be read."""
    return str(_read_state(folder)["origin"])


def cells_for(items: int, exact_below: int) -> int:
    """How many cells an index of so many items has: one, or the power of two next to sqrt(8 items)."""
    return 1 if items <= exact_below else 2 ** round(math.log2(math.sqrt(CELLS_PER_ITEM * items)))


def _trained(vectors: Vectors, cells: int, settings: IndexSettings) -> Any:
    dimensions = int(vectors.values.shape[1])
    quantizer = faiss.IndexFlatIP(dimensions)
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(quantizer, dimensions, cells, half, faiss.METRIC_INNER_PRODUCT, False)
    index.nprobe, index.cp.seed, index.cp.niter = settings.probes, settings.seed, ROUNDS
    index.cp.max_points_per_centroid = POINTS_PER_CELL
    if cells == 1:  # nothing to learn, and there may be no vector at all
        quantizer.add(np.zeros((1, dimensions), dtype=np.float32))
        index.is_trained = True
        return index
    step = max(len(vectors.ids) // (POINTS_PER_CELL * cells), 1)
    index.train(np.concatenate([part[::step] for part in _blocks(vectors)]))
    return index


def _blocks(vectors: Vectors) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(vectors.ids), QUERIES_AT_ONCE):
        yield vectors.rows(start, start + QUERIES_AT_ONCE)


def _nearest(first: Numbers, second: Numbers, similarity: NDArray[np.float32], k: int) -> Neighbours:
    """The `k` best of the rows (n, more), without the items themselves; of equally similar ones the first by place."""
    others = (second >= 0) & (second != first[:, None])
    rounded = np.round(np.where(others, similarity, -1.0), DECIMALS)
    order = np.lexsort((second, -rounded), axis=1)[:, :k]
    second, rounded = np.take_along_axis(second, order, 1), np.take_along_axis(rounded, order, 1)
    rows, columns = np.nonzero(rounded > 0)
    return Neighbours(first[rows], second[rows, columns], columns + 1, rounded[rows, columns].astype(np.float32))


def _digests(vectors: Vectors) -> list[int]:
    """A number for the content of each vector, equal for equal vectors."""
    mixers = np.random.default_rng(_MIXERS_SEED).integers(1 << 63, size=vectors.values.shape[1], dtype=np.uint64) | 1
    found: list[int] = []
    for rows in _blocks(vectors):
        bits = rows.astype(np.float16).view(np.uint16).astype(np.uint64) + 1
        found += (bits * mixers).sum(axis=1, dtype=np.uint64).tolist()
    return found


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    try:
        state: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete the folder, it is made again") from None
    if state.get("format") != FORMAT:
        raise InputError(f"{folder}: was written by another version of mlim; delete the folder, it is made again")
    return state


def _short(origin: str) -> str:
    kind, _, digest = origin.rpartition(":")
    return f"{kind}:{digest[:12]}" if kind else digest[:12]

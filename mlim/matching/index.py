"""Nearest neighbours of vectors by cosine: an index on disk that follows the catalog.

Vectors lie in half precision, cell after cell, in one file that is read through the page cache; small catalogs have one
cell, so every vector is compared. The items of the index are what is searched for, too, so a block of them is compared
cell by cell with products of matrices. With the same cells, an index that was updated finds what a new one finds.

Finding the cells twice and looking into p of c of them takes n (2 c + p n / c) products of two vectors: with p = 16,
c = sqrt(8 n) cells take the fewest.
"""

import math
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlim.errors import InputError
from mlim.files import atomic_folder, link_or_copy, read_json, write_json
from mlim.matching.nearest import (
    MOST_ROWS,
    NO_KEY,
    Keys,
    Matrix,
    Nearest,
    Neighbours,
    Numbers,
    floats,
    groups_of,
    places_of,
    ranks,
)
from mlim.matching.neighbour_lists import LISTS_AT_ONCE, Cells, KeptLists, ListsOf, Probes, kept_lists, longest, spare
from mlim.matching.vectors import Vectors, unit

VALUES_FILE, CENTROIDS_FILE, EDGES_FILE = "values.npy", "centroids.npy", "edges.npy"
ITEMS_FILE, STATE_FILE = "items.parquet", "index.json"
LISTS: Final = "nearest"  # the folder of the lists of neighbours, in that of the index
FORMAT: Final = 2
CELLS_PER_ITEM: Final = 8
POINTS_PER_CELL: Final = 39  # training vectors; faiss warns of fewer
ROUNDS: Final = 8  # of k-means
GROWTH: Final = 4  # times what the cells were made for; then they are computed again
ROWS_AT_ONCE: Final = 1 << 13  # so that what is computed of them fits the memory that was used before
QUERIES_AT_ONCE: Final = MOST_ROWS  # the more there are, the more of them look into the same cell
_MIXERS_SEED: Final = 20261130

Digests = NDArray[np.uint64]
Given = TypeVar("Given")
Made = TypeVar("Made")


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


class _Items(NamedTuple):
    """What an index holds: vectors (n, d) of length 1, ids and digests (n,), and where each cell starts and ends."""

    values: NDArray[np.float16]
    ids: Any
    digests: Digests
    edges: Numbers

    @property
    def cells(self) -> Numbers:
        """The cell (n,) of each item."""
        return np.repeat(np.arange(len(self.edges) - 1), np.diff(self.edges))

    def cells_of(self, rows: Numbers) -> Numbers:
        """The cells (m,) of the items in these `rows`."""
        return np.searchsorted(self.edges, rows, side="right") - 1


class _Cells(NamedTuple):
    """The centroids (cells, d), and how many items they were made for."""

    centroids: Matrix
    made_for: int

    def nearest(self, vectors: Matrix, count: int) -> Numbers:
        """The `count` nearest cells of each of `vectors`: (n, count)."""
        if len(self.centroids) == 1:
            return np.zeros((len(vectors), count), dtype=np.int64)
        found: Numbers = faiss.knn(vectors, self.centroids, count, metric=faiss.METRIC_INNER_PRODUCT)[1]
        return found


class VectorIndex:
    """The vectors of some items in a folder; they stay there, memory-mapped."""

    def __init__(self, folder: Path, origin: str, settings: IndexSettings) -> None:
        """The index in `folder`. `InputError` when it cannot be read or its vectors are not of this `origin`."""
        held = index_origin(folder)
        if held != origin:
            raise InputError(
                f"{folder}: holds vectors of another model ({_short(held)}, not {_short(origin)}), which cannot be "
                "compared; delete the folder, it is made again"
            )
        self._folder, self.origin, self._settings = folder, origin, settings
        self._items, self._cells = _read(folder)

    @classmethod
    def build(cls, folder: Path, vectors: Vectors, settings: IndexSettings) -> "VectorIndex":
        """Write a new index of all `vectors`, which are read block by block, into `folder`: all of it or nothing."""
        cells = _Cells(_centroids(vectors, settings), len(vectors.ids))
        everything = np.arange(len(vectors.ids))
        _write(folder, cells, _no_items(cells), everything[:0], vectors, everything, _digests(vectors))
        return cls(folder, vectors.origin, settings)

    def __len__(self) -> int:
        return len(self._items.values)

    @property
    def outgrown(self) -> bool:
        """Whether the catalog has grown so much that a new index would be searched faster.

        An index of one cell has when there are more than `exact_below` items; one of several, when there are GROWTH
        times as many as the cells were made for.
        """
        if len(self._cells.centroids) == 1:
            return cells_for(len(self), self._settings.exact_below) > 1
        return len(self) > GROWTH * self._cells.made_for

    def update(self, vectors: Vectors) -> Changes:
        """Make the index hold exactly these vectors. Its folder is replaced, or left alone where nothing changed.

        `ValueError` for another origin.
        """
        if vectors.origin != self.origin:
            raise ValueError(f"vectors of {vectors.origin} for an index of {self.origin}")
        digests, at = _digests(vectors), _places(vectors.ids, self._items.ids)
        known = at >= 0
        same = known.copy()
        same[known] = self._items.digests[at[known]] == digests[known]
        changes = Changes(int((~known).sum()), len(self) - int(known.sum()), int((known & ~same).sum()))
        if any(changes):
            new = np.flatnonzero(~same)
            kept = np.sort(at[same])
            _write(self._folder, self._cells, self._items, kept, vectors, new, digests[new], self._folder / LISTS)
            self._items, self._cells = _read(self._folder)
        return changes

    def neighbours(self, ids: Sequence[str], k: int) -> Iterator[Neighbours]:
        """The `k` nearest other items of every item of the index, part by part, cell after cell.

        Items are given by their places in `ids`, which must hold every one of them. Only similarities above 0 count: an
        empty text is near to nothing. As many blocks are searched at once as OpenMP has threads. The lists are kept in
        the folder, so that the next search compares only what differs (`mlim.matching.neighbour_lists`).
        """
        places = _places(self._items.ids, ids)
        if (places < 0).any():
            raise ValueError("the index holds items that are not among the ids")
        if not k or not len(self):
            return
        order = np.argsort(places)  # lists are kept in the order of ids
        ranked = np.empty_like(order)
        ranked[order] = np.arange(len(order))
        names, digests, given = self._items.ids.take(pa.array(order)), self._items.digests[order], places[order]
        probes = Probes(self._settings.probes, len(self._cells.centroids))
        with kept_lists(self._folder / LISTS, names, digests, probes, k + spare(k)) as lists:
            search = _Search(self._items, self._cells, probes, ranked, lists, k)
            starts = range(0, len(self), QUERIES_AT_ONCE)
            for listed, keys in _side_by_side(search.block, starts):
                yield from _neighbours(listed, keys, given)


@dataclass(frozen=True)
class _Search:
    """A search for the `k` nearest others of all items of an index, which have the places (n,) in `lists`."""

    items: _Items
    cells: _Cells
    probes: Probes
    places: Numbers
    lists: KeptLists
    k: int

    @cached_property
    def fresh(self) -> Numbers:
        """The rows, in order, of items that no list has seen."""
        return np.flatnonzero(self.lists.fresh[self.places])

    @cached_property
    def everything(self) -> Numbers:
        """All rows."""
        return np.arange(len(self.places))

    def block(self, start: int) -> tuple[Numbers, Keys]:
        """Places (m,) of QUERIES_AT_ONCE items from row `start` on, and their neighbours (m, k); lists are written."""
        rows = np.arange(start, min(start + QUERIES_AT_ONCE, len(self.places)))
        here, width = self.places[rows], self.lists.width
        before = self.lists.of(here)
        self._look(rows, before.cells, np.flatnonzero(self.lists.fresh[here]))
        short = before.cut & (before.lengths < self.k)
        last = np.where(short, NO_KEY, longest(before))
        nearest = Nearest(len(rows), width + 1)  # with the item itself
        known, again = np.flatnonzero(~short), np.flatnonzero(short)
        nearest.expect(known, last[known])
        self._compare(nearest, rows, known, before.cells, self.fresh)
        met = nearest.met()
        nearest.hold(met, before.keys[met])  # the lists of the others stay as they are
        self._compare(nearest, rows, again, before.cells, self.everything)
        lists = ListsOf(before.keys, before.cut & ~short, before.cells)
        lists.keys[np.union1d(met, again)] = NO_KEY
        row, keys = nearest.found()
        other = (places_of(keys) != here[row]) & (keys <= last[row])
        row, keys = row[other], keys[other]
        rank = ranks(row)
        lists.cut[row[rank >= width]] = True
        kept = rank <= width
        lists.keys[row[kept], rank[kept] - 1] = keys[kept]
        self.lists.put(here, lists)
        return here, lists.keys[:, : self.k]

    def _look(self, rows: Numbers, looked: Cells, chosen: Numbers) -> None:
        """Find the cells that the `chosen` ones of `rows` look into; they are put into `looked`.

        How many rows there are decides how faiss adds up, so of cells that are equally near but for rounding it may
        take another one at another time. What is kept is the choice with which the list was made.
        """
        if looked.size and len(chosen):
            vectors = floats(self.items.values[rows[chosen]])
            looked[chosen] = self.cells.nearest(vectors, self.probes.looked)

    def _compare(self, nearest: Nearest, rows: Numbers, chosen: Numbers, looked: Cells, among: Numbers) -> None:
        """Compare the `chosen` ones of `rows` with the rows `among`, in order, in their own cells and those `looked`.

        An item's own cell comes first: so little of the others is kept.
        """
        if not len(among):
            return
        edges = np.searchsorted(among, self.items.edges)
        filled = np.diff(edges) > 0
        own, others = self.items.cells_of(rows[chosen]), looked[chosen]
        here, there = filled[own], filled[others] & (others != own[:, None])
        meeting = np.flatnonzero(here | there.any(axis=1))  # where few rows are compared with, most items meet none
        chosen, own, others, here, there = chosen[meeting], own[meeting], others[meeting], here[meeting], there[meeting]
        queries = floats(self.items.values[rows[chosen]])
        for cell, at in chain(_groups_where(own[:, None], here[:, None]), _groups_where(others, there)):
            inside = among[edges[cell] : edges[cell + 1]]
            held = floats(self.items.values[inside])
            nearest.compare(chosen[at], queries[at], held, self.places[inside])


def _neighbours(listed: Numbers, keys: Keys, given: Numbers) -> Iterator[Neighbours]:
    """The lists `keys` (m, k) of the items at the places `listed` (m,), part by part; `given` (n,) renames places."""
    for start in range(0, len(keys), LISTS_AT_ONCE):
        part = keys[start : start + LISTS_AT_ONCE]
        there = part != NO_KEY
        first = np.repeat(given[listed[start : start + LISTS_AT_ONCE]], there.sum(axis=1))
        yield Neighbours(first, given[places_of(part[there])], np.nonzero(there)[1] + 1)


def _groups_where(cells: NDArray[np.integer[Any]], wanted: NDArray[np.bool_]) -> Iterator[tuple[int, Numbers]]:
    """Each cell of `cells` (n, m) that is `wanted` anywhere, and the rows in which it is."""
    found = np.flatnonzero(wanted)
    for cell, at in groups_of(cells.ravel()[found]):
        yield cell, found[at] // wanted.shape[1]


def index_origin(folder: Path) -> str:
    """The origin of the vectors of the index in `folder`; `InputError` when it cannot be read."""
    return str(_read_state(folder)["origin"])


def cells_for(items: int, exact_below: int) -> int:
    """How many cells an index of so many items has: one, or the power of two next to sqrt(8 items), at most `items`."""
    return 1 if items <= exact_below else min(2 ** round(math.log2(math.sqrt(CELLS_PER_ITEM * items))), items)


def _centroids(vectors: Vectors, settings: IndexSettings) -> Matrix:
    """The middles (cells, d) of the cells, by k-means of a sample; zeros where there is one cell."""
    items, dimensions = vectors.values.shape
    cells = cells_for(items, settings.exact_below)
    if cells == 1:
        return np.zeros((1, dimensions), dtype=np.float32)
    step = max(items // (POINTS_PER_CELL * cells), 1)
    sample = unit(np.asarray(vectors.values[::step], dtype=np.float32))
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": POINTS_PER_CELL}
    means = faiss.Kmeans(dimensions, cells, niter=ROUNDS, seed=settings.seed, spherical=True, **limits)
    means.train(sample)
    return np.asarray(means.centroids, dtype=np.float32)


def _write(
    folder: Path,
    cells: _Cells,
    items: _Items,
    kept: Numbers,
    vectors: Vectors,
    new: Numbers,
    digests: Digests,
    lists: Path | None = None,
) -> None:
    """Write an index of the items at the places `kept` and of the vectors at the places `new` with their digests.

    `lists` is a folder of lists of neighbours that are true of the items they name; it is taken along.
    """
    cell = np.concatenate([items.cells[kept], _assigned(cells, vectors, new)])
    order = np.argsort(cell, kind="stable")
    ids = pa.concat_arrays([items.ids.take(pa.array(kept)), _texts(vectors.ids).take(pa.array(new))])
    state = {"format": FORMAT, "origin": vectors.origin, "made_for": cells.made_for}
    with atomic_folder(folder) as made:
        shape = (len(order), vectors.values.shape[1])
        values = np.lib.format.open_memmap(made / VALUES_FILE, mode="w+", dtype=np.float16, shape=shape)
        for start in range(0, len(order), ROWS_AT_ONCE):
            at = order[start : start + ROWS_AT_ONCE]
            old = at < len(kept)
            part = values[start : start + len(at)]
            part[old] = items.values[kept[at[old]]]
            part[~old] = _unit_rows(vectors, new[at[~old] - len(kept)])
        values.flush()
        np.save(made / CENTROIDS_FILE, cells.centroids)
        np.save(made / EDGES_FILE, np.searchsorted(cell[order], np.arange(len(cells.centroids) + 1)))
        digest = np.concatenate([items.digests[kept], digests])[order]
        pq.write_table(pa.table({"id": ids.take(pa.array(order)), "digest": digest}), made / ITEMS_FILE)
        if lists is not None and lists.is_dir():
            shutil.copytree(lists, made / LISTS, copy_function=link_or_copy)
        write_json(made / STATE_FILE, state)


def _assigned(cells: _Cells, vectors: Vectors, places: Numbers) -> Numbers:
    """The nearest cell (n,) of each vector at `places`."""
    parts = (places[start : start + ROWS_AT_ONCE] for start in range(0, len(places), ROWS_AT_ONCE))
    found = _side_by_side(lambda part: cells.nearest(_unit_rows(vectors, part), 1)[:, 0], parts)
    return np.concatenate([places[:0], *found])


def _unit_rows(vectors: Vectors, places: Numbers) -> Matrix:
    return unit(np.asarray(vectors.values[places], dtype=np.float32))


def _side_by_side(work: Callable[[Given], Made], given: Iterable[Given]) -> Iterator[Made]:
    """`work` on each of `given`, in order, as many at once as OpenMP has threads; each keeps to one thread."""
    threads = faiss.omp_get_max_threads()
    waiting: deque[Future[Made]] = deque()
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool,
    ):
        for one in given:
            if len(waiting) == threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, one))
        while waiting:
            yield waiting.popleft().result()


def _digests(vectors: Vectors) -> Digests:
    """A number (n,) for the content of each vector, equal for equal vectors."""
    mixers = np.random.default_rng(_MIXERS_SEED).integers(1 << 63, size=vectors.values.shape[1], dtype=np.uint64) | 1
    found = np.empty(len(vectors.ids), dtype=np.uint64)
    for start in range(0, len(found), ROWS_AT_ONCE):
        bits = vectors.rows(start, start + ROWS_AT_ONCE).astype(np.float16).view(np.uint16).astype(np.uint64) + 1
        found[start : start + ROWS_AT_ONCE] = (bits * mixers).sum(axis=1, dtype=np.uint64)
    return found


def _places(ids: Sequence[str], among: Sequence[str]) -> Numbers:
    """Where each of `ids` (n,) stands in `among`; -1: nowhere."""
    found = pc.index_in(_texts(ids), value_set=_texts(among))
    places: Numbers = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def _texts(ids: Any) -> Any:
    return ids if isinstance(ids, pa.Array) else pa.array(ids, pa.large_string())


def _no_items(cells: _Cells) -> _Items:
    shape = (0, cells.centroids.shape[1])
    edges = np.zeros(len(cells.centroids) + 1, dtype=np.int64)
    return _Items(np.empty(shape, np.float16), _texts([]), np.empty(0, np.uint64), edges)


def _read(folder: Path) -> tuple[_Items, _Cells]:
    try:
        table = pq.read_table(folder / ITEMS_FILE)
        values = np.asarray(np.load(folder / VALUES_FILE, mmap_mode="r", allow_pickle=False))  # still mapped
        centroids, edges = (np.load(folder / name, allow_pickle=False) for name in (CENTROIDS_FILE, EDGES_FILE))
    except (ValueError, OSError, pa.ArrowException) as error:
        raise InputError(f"{folder}: cannot be read ({error}); delete the folder, it is made again") from None
    ids = table["id"].cast(pa.large_string()).combine_chunks()
    items = _Items(values, ids, table["digest"].to_numpy(), edges)
    if not len(table) == len(values) == edges[-1] or len(edges) != len(centroids) + 1:
        raise InputError(f"{folder}: its files do not fit together; delete the folder, it is made again")
    return items, _Cells(centroids, int(_read_state(folder)["made_for"]))


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

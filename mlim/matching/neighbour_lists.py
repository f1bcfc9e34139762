"""The nearest neighbours of every item as a search left them, for the next one: only what differs is searched again.

An item that arrives takes a place in a list where it is more similar than the last entry, so items are compared with
those that arrived. An item that went is left out. A list therefore holds some more neighbours than are asked for
(`spare`): only where fewer than those are left, and others were cut off at its end, is the item compared with all
again. What comes out is what a search of everything finds, but for similarities that products of another shape round
otherwise.

Entries are told by the place of the other item in the order of ids. It changes from one search to the next, but never
the order of two items that stay: equally similar ones keep their order, too.

Beside its list stands into which cells of the index an item looks. They stay the same as long as its vector and the
middles of the cells do, which is as long as its list is true.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlim.files import atomic_folder, read_json, write_json
from mlim.matching.nearest import NO_KEY, Keys, Numbers, places_of, with_places

KEYS_FILE, CUT_FILE, CELLS_FILE = "keys.npy", "cut.npy", "cells.npy"
ITEMS_FILE, STATE_FILE = "items.parquet", "lists.json"
FORMAT: Final = 2
SPARE_SHARE, LEAST_SPARE = 4, 8  # one more neighbour for each four
GONE: Final = -1
LISTS_AT_ONCE: Final = 1 << 12  # 2 MB of entries: new memory costs more than what is done with it

Cells = NDArray[np.unsignedinteger[Any]]
"""Numbers of cells."""


def spare(k: int) -> int:
    """How many neighbours beyond `k` are kept, so that a list outlasts that so many of its items go."""
    return max(k // SPARE_SHARE, LEAST_SPARE)


class Probes(NamedTuple):
    """Into how many cells a search looks for each item, the `looked` nearest ones of `cells`; of one cell, into none.

    The one cell is every item's own, which is searched in any case.
    """

    wanted: int
    cells: int

    @property
    def looked(self) -> int:
        """How many cells each item looks into."""
        return min(self.wanted, self.cells) if self.cells > 1 else 0

    @property
    def kind(self) -> np.dtype[Any]:
        """The smallest type of numbers of cells."""
        return np.min_scalar_type(self.cells)


class ListsOf(NamedTuple):
    """The lists of some items (m,).

    `keys` (m, width) are in order, then NO_KEY; `cut` (m,) says where less similar items were left out at the end;
    `cells` (m, looked) are those that were looked into. An item without a list has none of the keys, is `cut`, and its
    cells are yet to be found.
    """

    keys: Keys
    cut: NDArray[np.bool_]
    cells: Cells

    @property
    def lengths(self) -> Numbers:
        """How many entries (m,) each list has."""
        return np.asarray((self.keys != NO_KEY).sum(axis=1), dtype=np.int64)

    def part(self, some: slice) -> "ListsOf":
        """Those of some of the items, the same memory."""
        return ListsOf(self.keys[some], self.cut[some], self.cells[some])


@dataclass(frozen=True)
class _Before:
    """The lists of the search before; `at` (n,) is where an item of now is in them, `now` (o,) the other way round."""

    keys: Keys
    cut: NDArray[np.bool_]
    cells: Cells
    at: Numbers
    now: Numbers

    def fill(self, found: ListsOf, places: Numbers) -> None:
        """Put the lists of the items at these places (m,) into `found`, which has none."""
        known = np.flatnonzero(self.at[places] != GONE)
        rows, order = np.unique(self.at[places[known]], return_inverse=True)  # in the order of the file
        keys = np.asarray(self.keys[rows])[order]
        empty = keys == NO_KEY
        moved = self.now[np.where(empty, 0, places_of(keys))]
        gone = moved == GONE
        keys = with_places(keys, moved)
        keys[empty | gone] = NO_KEY
        holes = np.flatnonzero((gone & ~empty).any(axis=1))
        keys[holes] = np.sort(keys[holes], axis=1)
        taken = min(found.keys.shape[1], keys.shape[1])
        found.keys[known, :taken] = keys[:, :taken]
        beyond = (keys[:, taken:] != NO_KEY).any(axis=1)
        found.cut[known] = np.asarray(self.cut[rows])[order] | beyond
        found.cells[known] = np.asarray(self.cells[rows])[order]


@dataclass(frozen=True)
class KeptLists:
    """The lists of a search that goes on: those of before are read, those of now written.

    `fresh` (n,) says which items have no list, because they are new or their vectors are others.
    """

    fresh: NDArray[np.bool_]
    _before: _Before | None
    _lists: ListsOf

    @property
    def width(self) -> int:
        """How many entries a list has at most."""
        return int(self._lists.keys.shape[1])

    def of(self, places: Numbers) -> ListsOf:
        """The lists of before of the items at these places (m,), without the items that are no more."""
        found = ListsOf(
            np.full((len(places), self.width), NO_KEY),
            np.ones(len(places), dtype=bool),
            np.zeros((len(places), self._lists.cells.shape[1]), dtype=self._lists.cells.dtype),
        )
        if self._before is None:
            return found
        for start in range(0, len(places), LISTS_AT_ONCE):
            some = slice(start, start + LISTS_AT_ONCE)
            self._before.fill(found.part(some), places[some])
        return found

    def put(self, places: Numbers, lists: ListsOf) -> None:
        """Write the lists of the items at these places (m,)."""
        for held, given in zip(self._lists, lists, strict=True):
            held[places] = given


@contextmanager
def kept_lists(folder: Path, ids: Any, digests: NDArray[np.uint64], probes: Probes, width: int) -> Iterator[KeptLists]:
    """The lists in `folder`, to be replaced by those that the block writes for all items; an error leaves the old ones.

    `ids` (an Arrow array, n) and `digests` (n,) name the items and their vectors, in the order of the items' places.
    Lists that cannot be read, or that looked into another number of cells, count as none. The folder must not
    outlast the cells of its index, since nothing in it would tell them from others.
    """
    before = _read(folder, ids, digests, probes)
    items = len(ids)
    with atomic_folder(folder) as made:
        keys, cut, cells = (
            np.lib.format.open_memmap(made / name, mode="w+", dtype=kind, shape=shape)
            for name, kind, shape in (
                (KEYS_FILE, np.uint64, (items, width)),
                (CUT_FILE, np.bool_, (items,)),
                (CELLS_FILE, probes.kind, (items, probes.looked)),
            )
        )
        fresh = np.ones(items, dtype=bool) if before is None else before.at == GONE
        yield KeptLists(fresh, before, ListsOf(keys, cut, cells))
        for written in (keys, cut, cells):
            written.flush()
        pq.write_table(pa.table({"id": ids, "digest": digests}), made / ITEMS_FILE)
        write_json(made / STATE_FILE, _state(probes))


def _state(probes: Probes) -> dict[str, int]:
    return {"format": FORMAT, "probes": probes.wanted, "cells": probes.cells}


def _read(folder: Path, ids: Any, digests: NDArray[np.uint64], probes: Probes) -> _Before | None:
    try:
        if read_json(folder / STATE_FILE) != _state(probes):
            return None
        table = pq.read_table(folder / ITEMS_FILE)
        files = (KEYS_FILE, CUT_FILE, CELLS_FILE)
        keys, cut, cells = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in files)
    except (OSError, ValueError, EOFError, pa.ArrowException):
        return None
    if not len(table) == len(keys) == len(cut) or cells.shape != (len(table), probes.looked):
        return None
    at = _places(ids, table["id"].cast(ids.type).combine_chunks())
    known = np.flatnonzero(at != GONE)
    other = table["digest"].to_numpy()[at[known]] != digests[known]
    at[known[other]] = GONE
    stayed = at[at != GONE]
    if (np.diff(stayed) <= 0).any():  # another order of ids
        return None
    now = np.full(len(table), GONE, dtype=np.int64)
    now[stayed] = np.flatnonzero(at != GONE)
    return _Before(keys, cut, cells, at, now)


def _places(ids: Any, among: Any) -> Numbers:
    found = pc.index_in(ids, value_set=among).fill_null(GONE)
    return np.array(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def longest(lists: ListsOf) -> Keys:
    """The last entry (m,) of each list, the one that is least similar; NO_KEY where it has none or ends whole."""
    last = np.take_along_axis(lists.keys, np.maximum(lists.lengths - 1, 0)[:, None], axis=1)[:, 0]
    return np.where(lists.cut, last, NO_KEY)

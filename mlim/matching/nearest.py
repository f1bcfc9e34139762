"""The best of many similarities, row by row: products of matrices, block by block, of which only the best are kept.

A similarity that may be among the best of its row becomes one integer: row, similarity (the better the smaller), place.
So one sort of integers orders all rows at once, and equal similarities by place, whatever order they came in.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROW_BITS, LEVEL_BITS, PLACE_BITS = 18, 17, 29
MOST_ROWS: Final = 1 << ROW_BITS
LEVELS: Final = 100_000  # of similarities from 0 to 1: five decimals; beyond them the order of additions shows
_WORST: Final = (1 << LEVEL_BITS) - 1
_ENTRY: Final = np.uint64((1 << LEVEL_BITS + PLACE_BITS) - 1)  # without the row
_HALF_LEVEL: Final = 0.5 / LEVELS  # only what rounds to more than 0 counts
_SLACK: Final = 0.75 / LEVELS  # below the worst that is kept: enough for what rounds to the same
ROWS_AT_ONCE, COLUMNS_AT_ONCE = 2048, 4096  # of a product: 32 MB
MANY: Final = 4  # times as many similarities as are kept; then a block's own best set a bar first
KEYS_AT_ONCE: Final = 1 << 22  # 32 MB; beside them what is kept: 8 bytes for each row and neighbour
_FLOAT_BITS: Final = np.uint32(0x8FFFE000).astype(np.int32)  # the sign, and where 15 bits of half precision come to lie

NO_KEY: Final = np.uint64((1 << 64) - 1)  # after all keys

Numbers = NDArray[np.int64]
Matrix = NDArray[np.float32]
Keys = NDArray[np.uint64]
"""Entries of lists of neighbours, similarity and place in one number: the more similar the smaller, then by place."""


class Neighbours(NamedTuple):
    """Nearest neighbours: `second` is number `rank` (from 1) among those of `first`."""

    first: Numbers
    second: Numbers
    rank: Numbers


class Nearest:
    """The `kept` most similar places, below 2^PLACE_BITS, of each of `rows` vectors, at most MOST_ROWS.

    Only similarities above 0 count.
    """

    def __init__(self, rows: int, kept: int) -> None:
        self._kept = kept
        self._bar = np.full(rows, _HALF_LEVEL, dtype=np.float32)  # what is less similar is not kept
        self._keys: list[Keys] = []
        self._waiting = 0  # keys that no sort has seen

    def compare(self, rows: Numbers, queries: Matrix, held: Matrix, places: Numbers) -> None:
        """Bring in the products of `queries` (r, d), which are the vectors of `rows` (r,), with `held` (m, d).

        `places` (m,) are those of `held`; a row must not meet a place twice.
        """
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            for left in range(0, len(held), COLUMNS_AT_ONCE):
                columns = slice(left, left + COLUMNS_AT_ONCE)
                self._add(rows[some], queries[some] @ held[columns].T, places[columns])

    def expect(self, rows: Numbers, last: Keys) -> None:
        """Of the rows (r,), no place after `last` (r,) will be asked for; NO_KEY: any may be."""
        ends = last != NO_KEY
        self._bar[rows[ends]] = _levels(last[ends]).astype(np.float32) / LEVELS - np.float32(_SLACK)

    def hold(self, rows: Numbers, keys: Keys) -> None:
        """Bring in lists that are there: `keys` (r, w) of the rows (r,), in order and then NO_KEY."""
        held = keys != NO_KEY
        self._keys.append((_shifted(rows)[:, None] | keys)[held])
        self._waiting += int(held.sum())

    def met(self) -> Numbers:
        """The rows, in order, for which something was brought in."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *map(_rows, self._keys)]))

    def _add(self, rows: Numbers, scores: Matrix, places: Numbers) -> None:
        bar = self._bar[rows]
        passed = scores >= bar[:, None]
        if np.count_nonzero(passed) > MANY * self._kept * len(rows):
            at = scores.shape[1] - self._kept
            bar = np.maximum(bar, np.partition(scores, at, axis=1)[:, at] - np.float32(_SLACK))
            passed = scores >= bar[:, None]
            self._bar[rows] = bar
        found = np.flatnonzero(passed)
        row, column = np.divmod(found, scores.shape[1])
        level = np.rint(scores.ravel()[found] * np.float32(LEVELS)).astype(np.int64)
        key = (rows[row] << LEVEL_BITS | _WORST - np.minimum(level, _WORST)) << PLACE_BITS | places[column]
        self._keys.append(key.view(np.uint64))
        self._waiting += len(key)
        if self._waiting > KEYS_AT_ONCE:
            self._sort()

    def _sort(self) -> None:
        """Keep the best of each row, and raise the bars to them."""
        keys = np.concatenate([np.empty(0, np.uint64), *self._keys])
        keys.sort()
        keys = keys[~_stands_behind(_rows(keys), self._kept)]
        last = keys[_stands_behind(_rows(keys), self._kept - 1)]
        bar = _levels(last).astype(np.float32) / LEVELS - np.float32(_SLACK)
        self._bar[_rows(last)] = np.maximum(self._bar[_rows(last)], bar)
        self._keys, self._waiting = [keys], 0

    def found(self) -> tuple[Numbers, Keys]:
        """Rows and entries of all that is kept, by row, then the most similar first, then by place."""
        self._sort()
        keys = self._keys[0]
        return _rows(keys), keys & _ENTRY


def places_of(keys: Keys) -> Numbers:
    """The places (n,) that entries name."""
    return keys.view(np.int64) & (1 << PLACE_BITS) - 1


def with_places(keys: Keys, places: Numbers) -> Keys:
    """The same entries of items that are at other places (n,)."""
    return keys >> np.uint64(PLACE_BITS) << np.uint64(PLACE_BITS) | places.view(np.uint64)


def floats(halves: NDArray[np.float16]) -> Matrix:
    """Half precision as float32, exactly, for finite numbers; numpy's conversion takes eight times as long.

    The sign and 15 bits are put where float32 has them; 2^112 is how much further its exponents reach.
    """
    bits = halves.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _FLOAT_BITS
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values


def _stands_behind(rows: Numbers, count: int) -> NDArray[np.bool_]:
    """Which entries (n,) have at least `count` others of their row before them; those of a row follow each other."""
    behind = np.ones(len(rows), dtype=bool)
    behind[:count] = False
    behind[count:] = rows[count:] == rows[: len(rows) - min(count, len(rows))]
    return behind


def ranks(rows: Numbers) -> Numbers:
    """The place (n,), from 1, of each entry among those of its row; entries of a row follow each other."""
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    lengths = np.diff(starts, append=len(rows))
    return np.arange(1, len(rows) + 1) - np.repeat(starts, lengths)


def groups_of(values: NDArray[np.integer[Any]]) -> Iterator[tuple[int, Numbers]]:
    """Each distinct value and where it stands, in order. Values of two bytes are sorted in linear time."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for start, stop in pairwise([0, *starts.tolist(), len(values)] if len(values) else []):
        yield int(ordered[start]), order[start:stop]


def _rows(keys: Keys) -> Numbers:
    return (keys >> np.uint64(LEVEL_BITS + PLACE_BITS)).view(np.int64)


def _levels(keys: Keys) -> Numbers:
    """Similarities in hundred thousandths."""
    return _WORST - (keys.view(np.int64) >> PLACE_BITS & _WORST)


def _shifted(rows: Numbers) -> Keys:
    return (rows << LEVEL_BITS + PLACE_BITS).view(np.uint64)

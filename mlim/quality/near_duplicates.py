"""Near copies of pictures: items whose perceptual hashes differ in a few bits, found without comparing all with all.

Two values of 64 bits that differ in at most d bits agree in at least two of d + 2 bands (each difference spoils one
band at most), so only values with two equal bands are compared: the pigeonhole index of Norouzi, Punjani and Fleet,
"Fast search in Hamming space with multi-index hashing" (CVPR 2012), with two bands in place of one. A bucket that is
large all the same (plain backgrounds leave most bits 0) is split again by the bits that are still free.

A hash of 64 bits tells shapes, not pictures: trousers on white share it whatever their colour. A copy that was only
scaled or encoded again also keeps its grey levels, so these can be compared too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

HASH_BITS = 64
HEXADECIMAL = 16
EQUAL_BANDS = 2
EVEN = 0.5  # the share of ones of a bit that tells most
SMALL_BUCKET = 4096  # values that are all compared with each other
MAX_DISTANCE = 4  # beyond it, pictures that are no copies of each other are connected
PENDING_LINKS = 4_000_000  # links that are collected before those that connect nothing new are dropped
# how much brightness and contrast of copies differ: 1,180 pictures scaled to 3/4 and encoded at quality 70 moved by at
# most 0.0011 and 0.011, 99 of 100 by 0.0009 and 0.0058
LEVEL_TOLERANCE = np.array([0.005, 0.01])
CELLS_OF_TOLERANCE = 2  # side of a grid cell: two values within the tolerance share a cell of a grid or of its twin
CELLS_PER_SIDE = 1 << 16

Links = NDArray[np.int64]  # (n, 2): positions
Hashes = NDArray[np.uint64]
Levels = NDArray[np.float64]  # (n, 2): brightness and contrast


@dataclass(frozen=True)
class _Pictures:
    """Distinct pictures, (n,) and (n, 2), and how far apart near copies may be."""

    hashes: Hashes
    levels: Levels
    distance: int

    def near(self, one: Links, other: Links) -> NDArray[np.bool_]:
        """Which of the pairs are near copies."""
        close: NDArray[np.bool_] = np.bitwise_count(self.hashes[one] ^ self.hashes[other]) <= self.distance
        places = np.flatnonzero(close)
        apart = np.abs(self.levels[one[places]] - self.levels[other[places]])
        close[places] = (apart <= LEVEL_TOLERANCE).all(axis=1)
        return close


def near_duplicate_links(
    hashes: Sequence[str] | Hashes, max_distance: int, levels: NDArray[np.floating] | None = None
) -> Links:
    """Links (n, 2) between positions whose hashes differ in at most `max_distance` bits; n is below len(hashes).

    `hashes` are 16 hexadecimal digits each, or 64-bit numbers. With `levels` (items, 2), brightness and contrast, both
    must agree within `LEVEL_TOLERANCE` as well. Not every close pair is listed: the links are a spanning forest, which
    connects exactly what all close pairs would connect. `ValueError` when max_distance is not in 0..4.
    """
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ValueError(f"max_distance {max_distance} is not in 0..{MAX_DISTANCE}")
    numbers = hash_numbers(hashes)
    grey = np.zeros((len(numbers), 2)) if levels is None else np.asarray(levels, dtype=np.float64).reshape(-1, 2)
    first, copies = _distinct(numbers, grey)
    pictures, found = _Pictures(numbers[first], grey[first], max_distance), [copies]
    for links in _close(pictures, np.arange(len(first)), np.arange(HASH_BITS)):
        found.append(first[links])
        if sum(map(len, found)) > PENDING_LINKS:
            found = [_spanning(found, len(numbers))]
    return _spanning(found, len(numbers))


def link_groups(links: Links, size: int) -> Links:
    """A number for each of `size` positions, equal for those that the links (n, 2) connect and for no others."""
    graph = coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def hash_numbers(hashes: Sequence[str] | Hashes) -> Hashes:
    """The hashes as 64-bit numbers."""
    if isinstance(hashes, np.ndarray) and hashes.dtype == np.uint64:
        return hashes
    return np.fromiter((int(text, HEXADECIMAL) for text in hashes), dtype=np.uint64, count=len(hashes))


def _distinct(hashes: Hashes, levels: Levels) -> tuple[Links, Links]:
    """The first place of every distinct picture, and links from it to its repetitions."""
    order = np.lexsort((levels[:, 1], levels[:, 0], hashes))
    changes = (np.diff(hashes[order], prepend=~hashes[order[:1]]) != 0) | (
        np.diff(levels[order], axis=0, prepend=levels[order[:1]]) != 0
    ).any(axis=1)
    first = order[changes]  # of equal ones, lexsort keeps the earliest first
    source = first[np.cumsum(changes) - 1] if len(order) else order
    return first, np.stack([source, order], axis=1)[~changes]


def _close(pictures: _Pictures, places: Links, bits: Links) -> Iterator[Links]:
    """The near copies among `places`, whose hashes agree outside `bits`."""
    if len(places) <= SMALL_BUCKET:
        yield from _neighbours(pictures, places, np.zeros(len(places), dtype=np.uint64))
        return
    hashes, count = pictures.hashes[places], pictures.distance + EQUAL_BANDS
    informative = _informative_bits(hashes, bits)
    if len(informative) < count:
        yield from _close_in_levels(pictures, places)
        return
    bands = [informative[band::count] for band in range(count)]
    for equal in combinations(bands, EQUAL_BANDS):
        fixed = np.concatenate(equal)
        mask = np.bitwise_or.reduce(np.uint64(1) << fixed.astype(np.uint64))
        yield from _close_in_buckets(pictures, places, hashes & mask, np.setdiff1d(informative, fixed))


def _close_in_levels(pictures: _Pictures, places: Links) -> Iterator[Links]:
    """The near copies among pictures of nearly one hash, in two grids per level that lie half a cell apart."""
    for shift in product((0.0, 0.5), repeat=2):
        cells = np.floor(pictures.levels[places] / (CELLS_OF_TOLERANCE * LEVEL_TOLERANCE) + shift).astype(np.uint64)
        keys = cells[:, 0] * np.uint64(CELLS_PER_SIDE) + cells[:, 1]
        order = np.argsort(keys, kind="stable")
        yield from _neighbours(pictures, places[order], keys[order])


def _informative_bits(hashes: Hashes, bits: Links) -> Links:
    """The bits in which the hashes differ, the most informative first: divided in turn, no band is background alone."""
    shares = np.array([(hashes >> bit & np.uint64(1)).mean() for bit in bits.astype(np.uint64)])
    order = np.argsort(np.abs(shares - EVEN), kind="stable")
    return bits[order][(shares[order] > 0) & (shares[order] < 1)]


def _close_in_buckets(pictures: _Pictures, places: Links, keys: Hashes, free: Links) -> Iterator[Links]:
    """The near copies among those of equal key; in large buckets the bits `free` are looked at."""
    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], places[order]
    edges = np.flatnonzero(np.diff(keys, prepend=~keys[:1], append=~keys[-1:]))
    large = np.diff(edges) > SMALL_BUCKET
    for start, stop in zip(edges[:-1][large].tolist(), edges[1:][large].tolist(), strict=True):
        yield from _close(pictures, places[start:stop], free)
    small = np.repeat(~large, np.diff(edges))
    yield from _neighbours(pictures, places[small], keys[small])


def _neighbours(pictures: _Pictures, places: Links, keys: Hashes) -> Iterator[Links]:
    """The near copies among those of equal key, all compared; `keys` is sorted."""
    rows = np.arange(len(places))
    for step in range(1, len(places)):
        rows = rows[rows + step < len(places)]
        rows = rows[keys[rows] == keys[rows + step]]
        if not len(rows):
            return
        one, other = places[rows], places[rows + step]
        near = pictures.near(one, other)
        yield np.stack([one[near], other[near]], axis=1)


def _spanning(links: Sequence[Links], size: int) -> Links:
    """As many of the links as it takes to connect what all of them connect, in order of their positions."""
    one, other = np.concatenate(links).T
    graph = coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(size, size))
    forest = minimum_spanning_tree(graph).tocoo()
    pairs = np.stack([forest.row, forest.col], axis=1).astype(np.int64)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]

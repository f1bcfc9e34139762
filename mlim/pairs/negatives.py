"""Mismatches across families, drawn inside one split: nearest neighbours in text or picture, and random ones.

Each has an item that is also in a match (an anchor), so that no item gives the label away by only being there. Items of
one component are never such a mismatch: they may be the same product. The numbers of items follow the order of their
ids and ties are broken by the seed: equal items give equal pairs, whatever the order of the rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlim.catalog.pair_rules import IMAGE, RANDOM, TEXT, Negatives
from mlim.pairs.similarities import word_vectors

CHUNK = 256  # anchors that are compared with all others at a time
EXHAUSTIVE = 2_000_000  # so many possible pairs are listed; of more, some are drawn until there are enough
ROUNDS = 30  # of drawing before what there is must do
COSINE_STEPS = 1 << 20  # a cosine as a whole number, so that ties are the same on every machine
RANK_BITS = 20  # of a closeness, for breaking ties; 2 ** 20 is above the number of items that are compared
OUT = np.iinfo(np.int64).min  # the closeness of items that may not be paired

Places = NDArray[np.int64]
Closeness = Callable[[Places], Places]  # of some items to all partners: (items, partners), higher is nearer


@dataclass(frozen=True)
class Pool:
    """The items of one split in the order of their ids, as arrays of equal length; places are positions in them.

    `group`: only items of equal group are paired, negative ones never. `differ` (items, columns): only items that
    differ in every column are (None: all). `texts` and `hashes` (64-bit numbers) are needed for neighbours only.
    `anchors` are the places of items that are in a match.
    """

    component: Places
    group: Places
    anchors: Places
    texts: Sequence[str] = ()
    hashes: Any = None
    differ: Places | None = None

    def may_pair(self, first: Places, second: Places) -> NDArray[np.bool_]:
        """Whether items, given by places of shapes that broadcast, may be a mismatch."""
        apart = self.component[first] != self.component[second]
        if self.differ is not None:
            apart = apart & (self.differ[first] != self.differ[second]).all(axis=-1)
        return np.asarray(apart & (self.group[first] == self.group[second]) & (self.group[first] >= 0))

    def codes(self, first: Places, second: Places) -> Places:
        """One number for each unordered pair."""
        return np.minimum(first, second) * len(self.component) + np.maximum(first, second)

    def places(self, codes: Places) -> tuple[Places, Places]:
        """The places, the lower one first, of the pairs with these numbers."""
        return codes // len(self.component), codes % len(self.component)


def draw_mismatches(
    pool: Pool, kind: str, wanted: int, taken: Places, settings: Negatives, generator: np.random.Generator
) -> Places:
    """The codes of at most `wanted` pairs of a kind (text, image or random) that are not among the codes `taken`."""
    if wanted < 1 or not len(pool.anchors):
        return np.empty(0, dtype=np.int64)
    if kind == RANDOM:
        return _random(pool, wanted, taken, generator)
    nearest = {TEXT: _text_closeness, IMAGE: _image_closeness}[kind]
    anchors = _sample(pool.anchors, settings.compare, generator)
    partners = _sample(np.arange(len(pool.component)), settings.compare, generator)
    codes, ranks = _neighbours(pool, nearest(pool, partners), anchors, partners, settings.neighbours, generator)
    order = np.lexsort((generator.permutation(len(codes)), ranks))  # the nearest of every anchor first
    _, first = np.unique(codes[order], return_index=True)
    ordered = codes[order][np.sort(first)]
    return ordered[~np.isin(ordered, taken)][:wanted]


def _sample(places: Places, size: int, generator: np.random.Generator) -> Places:
    return places if len(places) <= size else np.sort(generator.choice(places, size, replace=False))


def _text_closeness(pool: Pool, partners: Places) -> Closeness:
    """Cosine of TF-IDF vectors of words, fitted on the partners."""
    words = word_vectors([pool.texts[place] for place in partners])
    known = words.transform([pool.texts[place] for place in partners]).T.tocsr()

    def closeness(anchors: Places) -> Places:
        cosine = words.transform([pool.texts[place] for place in anchors]) @ known
        return np.asarray(np.rint(cosine.toarray() * COSINE_STEPS), dtype=np.int64)

    return closeness


def _image_closeness(pool: Pool, partners: Places) -> Closeness:
    """Minus the number of bits in which the perceptual hashes differ."""

    def closeness(anchors: Places) -> Places:
        apart = np.bitwise_count(pool.hashes[anchors, None] ^ pool.hashes[None, partners])
        return np.asarray(-apart.astype(np.int64))

    return closeness


def _neighbours(
    pool: Pool, closeness: Closeness, anchors: Places, partners: Places, count: int, generator: np.random.Generator
) -> tuple[Places, Places]:
    """The codes of each anchor with its `count` nearest partners, and the ranks from 0 (the nearest)."""
    tie = generator.permutation(len(partners))
    codes, ranks = [], []
    for start in range(0, len(anchors), CHUNK):
        chunk = anchors[start : start + CHUNK]
        score = (closeness(chunk) << RANK_BITS) + tie
        score[~pool.may_pair(chunk[:, None], partners[None, :])] = OUT
        for rank in range(min(count, len(partners))):
            best, rows = score.argmax(axis=1), np.arange(len(chunk))
            fit = score[rows, best] != OUT
            codes.append(pool.codes(chunk[fit], partners[best[fit]]))
            ranks.append(np.full(fit.sum(), rank))
            score[rows, best] = OUT
    return np.concatenate(codes), np.concatenate(ranks)


def _random(pool: Pool, wanted: int, taken: Places, generator: np.random.Generator) -> Places:
    if len(pool.anchors) * len(pool.component) <= EXHAUSTIVE:
        everyone = np.arange(len(pool.component))
        first, second = np.repeat(pool.anchors, len(everyone)), np.tile(everyone, len(pool.anchors))
        found = _fresh(pool, first, second, taken)
    else:
        found = _tried(pool, wanted, taken, generator)
    return generator.permutation(found)[:wanted]


def _tried(pool: Pool, wanted: int, taken: Places, generator: np.random.Generator) -> Places:
    """At least `wanted` codes of anchors with items of their group, unless ROUNDS of drawing do not find so many."""
    order = np.argsort(pool.group, kind="stable")
    groups, starts, sizes = np.unique(pool.group[order], return_index=True, return_counts=True)
    found = np.empty(0, dtype=np.int64)
    for _ in range(ROUNDS):
        first = generator.choice(pool.anchors, wanted)
        group = np.searchsorted(groups, pool.group[first])
        second = order[starts[group] + generator.integers(sizes[group])]
        found = np.union1d(found, _fresh(pool, first, second, taken))
        if len(found) >= wanted:
            break
    return found


def _fresh(pool: Pool, first: Places, second: Places, taken: Places) -> Places:
    """The codes, once each, of those that may be paired and are not taken."""
    fit = pool.may_pair(first, second)
    return np.setdiff1d(pool.codes(first[fit], second[fit]), taken)

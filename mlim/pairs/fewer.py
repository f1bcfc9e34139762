"""Fewer pairs to learn from: always the same ones, the fewer among the more, so that their numbers can be compared."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

SEED: Final = 0  # of the order of the families: a constant, so that trainings of all seeds learn from the same pairs


def first_pairs(components: NDArray[np.int64], labels: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """The places of at most `most` pairs, ascending: those of whole families in a fixed random order, cut at `most`.

    `components` (n,) is the family of each pair (of its first item, where it has two), `labels` (n,) tells matches. For
    two numbers the pairs of the smaller are among those of the larger, and from two on both labels are there, where
    the pairs have both.
    """
    known, numbered = np.unique(components, return_inverse=True)
    rank = np.random.default_rng(SEED).permutation(known.size)[numbered]
    order = np.argsort(rank, kind="stable")
    others = np.flatnonzero(labels[order] != labels[order[:1]])
    if others.size:  # the first pair of the other label comes second
        order[1 : others[0] + 1] = np.roll(order[1 : others[0] + 1], 1)
    return np.sort(order[:most])

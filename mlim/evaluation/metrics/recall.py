"""Recall at k of retrieval: is what belongs to a query among the k best of a gallery?

A catalog holds equal texts and equal pictures: every item with the query's text or picture is a hit, and the best of
them counts. An item that scores as high as the best hit stands before it, so that equal scores reach nothing.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.metrics.measure import Figure, Values, WeightedMeans

Ranks = NDArray[np.int64]
Keys = NDArray[np.int64]

CUTS: Final = (1, 5, 10)
QUERIES_AT_A_TIME: Final = 512  # whose scores of the whole gallery are in memory
SHOWN: Final = 5  # of what a query found, for people to look at

FIGURES: Final = (
    Figure("r1", "R@1, mean of both directions"),
    *(Figure(f"image_r{cut}", f"pictures of a text, R@{cut}") for cut in CUTS),
    *(Figure(f"text_r{cut}", f"texts of a picture, R@{cut}") for cut in CUTS),
)


class Searched(NamedTuple):
    """What queries found: `ranks` (q,) of the best hit of each, and the places (q, SHOWN) of what stands first."""

    ranks: Ranks
    first: Ranks


def search(scores: Values, hits: NDArray[np.bool_]) -> Searched:
    """By falling scores (q, gallery); `first` has fewer columns where the gallery is smaller."""
    return Searched(ranks_of(scores, hits), np.argsort(-scores, axis=1, kind="stable")[:, :SHOWN])


def ranks_of(scores: Values, hits: NDArray[np.bool_]) -> Ranks:
    """How many others stand before the best hit of each query: (q,) from scores and hits (q, gallery)."""
    best = np.where(hits, scores, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(((scores >= best) & ~hits).sum(axis=1))


def cross_search(text: Values, image: Values, texts: Keys, pictures: Keys) -> tuple[Searched, Searched]:
    """The pictures for each text, and the texts for each picture, by inner products.

    `text` and `image` (n, D) are vectors of the same items; equal `texts` or `pictures` (n,) are equal content.
    """
    parts = []
    for queries, gallery in ((text, image), (image, text)):
        places = np.split(np.arange(len(queries)), range(QUERIES_AT_A_TIME, len(queries), QUERIES_AT_A_TIME))
        found = [search(queries[at] @ gallery.T, alike(at, texts, pictures)) for at in places]
        parts.append(Searched(*map(np.concatenate, zip(*found, strict=True))))
    return parts[0], parts[1]


def alike(queries: Ranks, texts: Keys, pictures: Keys) -> NDArray[np.bool_]:
    """Which items (q, n) have the text or the picture of the items in the rows `queries` (q,)."""
    return np.asarray((texts[queries, None] == texts) | (pictures[queries, None] == pictures))


def recall(image_ranks: Ranks, text_ranks: Ranks) -> WeightedMeans:
    """The FIGURES, from the ranks (n,) of the pictures of each item's text and of the texts of its picture."""
    hits = [(ranks < cut).astype(np.float64) for ranks in (image_ranks, text_ranks) for cut in CUTS]
    return WeightedMeans(np.stack([(hits[0] + hits[len(CUTS)]) / 2, *hits]))

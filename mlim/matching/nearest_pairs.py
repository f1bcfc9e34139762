"""The labelled pairs that are most like a pair of items: what somebody said of such items."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.pairs.similarities import word_vectors
from mlim.quality.near_duplicates import HASH_BITS, hash_numbers
from mlim.recipe.base import Modality


class LabelledPair(NamedTuple):
    """A pair with its label; `similarity` in [0, 1] is the mean of both items', 1: the same items."""

    first: str
    second: str
    match: bool
    split: str
    similarity: float


def nearest_pairs(
    items: pd.DataFrame, pairs: pd.DataFrame, first: str, second: str, modality: Modality, most: int
) -> list[LabelledPair]:
    """The labelled pairs whose items are most like `first` and `second`, in whichever order, nearest first.

    `items` (id, text, image_hash) holds all items of `pairs` (item_a, item_b, label, split) and these two. Items are as
    alike as the cosine of their words (TF-IDF) and the equal bits of their pictures' hashes beyond chance, or one of
    both where one modality is read.
    """
    place = pd.Series(np.arange(len(items)), index=items["id"])
    to_first, to_second = similarities(items, [int(place[first]), int(place[second])], modality)
    a, b = (pairs[side].map(place).to_numpy() for side in ("item_a", "item_b"))
    straight, turned = to_first[a] + to_second[b], to_first[b] + to_second[a]
    alike = np.maximum(straight, turned) / 2
    nearest = np.argsort(-alike, kind="stable")[:most]
    return [_labelled(pairs.iloc[row], bool(turned[row] > straight[row]), float(alike[row])) for row in nearest]


def similarities(items: pd.DataFrame, chosen: Sequence[int], modality: Modality) -> NDArray[np.float64]:
    """How alike the items at the places `chosen` (k,) are to every item, (k, n) from 0 to 1."""
    texts, hashes = [*items["text"]], hash_numbers([*items["image_hash"]])
    vectors = word_vectors(texts).transform(texts)
    words: NDArray[np.float64] = (vectors[chosen] @ vectors.T).toarray()
    apart = np.bitwise_count(hashes[chosen][:, None] ^ hashes)
    looks = 1 - apart / (HASH_BITS / 2)  # unrelated pictures differ in half of the bits
    alike: dict[Modality, NDArray[np.float64]] = {"text": words, "image": looks, "both": (words + looks.clip(0)) / 2}
    return np.clip(alike[modality], 0, 1)


def _labelled(row: "pd.Series[Any]", turned: bool, similarity: float) -> LabelledPair:
    """A pair whose first item is the one that is like the first item."""
    items = str(row["item_a"]), str(row["item_b"])
    return LabelledPair(*(items[::-1] if turned else items), bool(row["label"]), str(row["split"]), similarity)

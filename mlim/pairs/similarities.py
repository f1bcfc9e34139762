"""How alike two items are, from what the index knows: texts, attributes and the perceptual hash of the picture.

The leak audit learns from these, and so do the baselines of `mlim.evaluation`, which add measures of the pictures.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from mlim.catalog.values import Values
from mlim.quality.near_duplicates import HASH_BITS

WORD: Final = r"(?u)\b\w+\b"  # one-letter words too: sizes
NO_WORD: Final = "wordless"

Vector = NDArray[np.float32]
Places = NDArray[np.int64]


def word_vectors(texts: Sequence[str]) -> TfidfVectorizer:
    """TF-IDF of words, fitted on the texts (scikit-learn's vectorizer); texts without a word have the vector 0."""
    wordless = not any(re.search(WORD, text) for text in texts)
    return TfidfVectorizer(token_pattern=WORD).fit([NO_WORD] if wordless else texts)


def text_similarities(
    texts: Sequence[str], vectorizer: TfidfVectorizer, first: Places, second: Places
) -> dict[str, Vector]:
    """Cosine of the TF-IDF vectors (`word_vectors`), and shared words, of texts[first] and texts[second]."""
    vectors = vectorizer.transform(texts)
    cosine = np.asarray(vectors[first].multiply(vectors[second]).sum(axis=1)).ravel()
    words = [frozenset(re.findall(WORD, text.lower())) for text in texts]
    jaccard = [len(words[a] & words[b]) / max(len(words[a] | words[b]), 1) for a, b in zip(first, second, strict=True)]
    return {"text_cosine": cosine.astype(np.float32), "text_jaccard": np.array(jaccard, dtype=np.float32)}


def comparable_attributes(attributes: Sequence[Mapping[str, Any]], values: Values) -> list[dict[str, str]]:
    """The attributes in the form in which they are compared; empty where an item has no value."""
    names = dict.fromkeys(name for one in attributes for name in one)
    compare = {name: cache(values.of(name).comparable) for name in names}  # most values come more than once
    return [{name: compare[name](str(value or "")) or "" for name, value in one.items()} for one in attributes]


def attribute_similarities(
    attributes: Sequence[Mapping[str, Any]], first: Places, second: Places, values: Values | None = None
) -> dict[str, Vector]:
    """For each attribute: 1 equal, 0 different, NaN where an item has none; and how many of the two have none."""
    compared = comparable_attributes(attributes, values or Values())
    columns: dict[str, Vector] = {}
    for name in dict.fromkeys(name for one in compared for name in one):
        cells = np.array([one.get(name, "") for one in compared], dtype=object)
        missing = (cells == "").astype(np.float32)
        lacking = missing[first] + missing[second]
        equal = (cells[first] == cells[second]).astype(np.float32)
        columns[f"equal:{name}"] = np.where(lacking > 0, np.float32(np.nan), equal)
        columns[f"missing:{name}"] = lacking
    return columns


def hash_similarities(hashes: NDArray[np.uint64], first: Places, second: Places) -> dict[str, Vector]:
    """The share of the perceptual hashes' bits that differ."""
    apart = np.bitwise_count(hashes[first] ^ hashes[second])
    return {"hash:distance": apart.astype(np.float32) / np.float32(HASH_BITS)}

"""How alike two items are, from what the index knows: texts, attributes and the perceptual hash of the picture.

The leak audit learns from these, and so do the baselines of `mlim.evaluation`, which add measures of the pictures.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from mlim.quality.near_duplicates import HASH_BITS

WORD: Final = r"(?u)\b\w+\b"  # one-letter words too: sizes
NO_WORD: Final = "wordless"

Vector = NDArray[np.float32]
Places = NDArray[np.int64]


def word_vectors(texts: Sequence[str]) -> Any:
    """TF-IDF of words, fitted on the texts (scikit-learn's vectorizer); texts without a word have the vector 0."""
    wordless = not any(re.search(WORD, text) for text in texts)
    return TfidfVectorizer(token_pattern=WORD).fit([NO_WORD] if wordless else texts)


def text_similarities(
    texts: Sequence[str], training_texts: Sequence[str], first: Places, second: Places
) -> dict[str, Vector]:
    """Cosine of TF-IDF vectors fitted on `training_texts`, and shared words, of texts[first] and texts[second]."""
    vectors = word_vectors(training_texts).transform(texts)
    cosine = np.asarray(vectors[first].multiply(vectors[second]).sum(axis=1)).ravel()
    words = [frozenset(re.findall(WORD, text.lower())) for text in texts]
    jaccard = [len(words[a] & words[b]) / max(len(words[a] | words[b]), 1) for a, b in zip(first, second, strict=True)]
    return {"text_cosine": cosine.astype(np.float32), "text_jaccard": np.array(jaccard, dtype=np.float32)}


def attribute_similarities(attributes: Sequence[Mapping[str, str]], first: Places, second: Places) -> dict[str, Vector]:
    """For each attribute: 1 equal, 0 different, NaN where an item has none; and how many of the two have none."""
    columns: dict[str, Vector] = {}
    for name in dict.fromkeys(name for one in attributes for name in one):
        values = np.array([one.get(name) or "" for one in attributes], dtype=object)
        missing = (values == "").astype(np.float32)
        lacking = missing[first] + missing[second]
        equal = (values[first] == values[second]).astype(np.float32)
        columns[f"equal:{name}"] = np.where(lacking > 0, np.float32(np.nan), equal)
        columns[f"missing:{name}"] = lacking
    return columns


def hash_similarities(hashes: NDArray[np.uint64], first: Places, second: Places) -> dict[str, Vector]:
    """The share of the perceptual hashes' bits that differ."""
    apart = np.bitwise_count(hashes[first] ^ hashes[second])
    return {"hash:distance": apart.astype(np.float32) / np.float32(HASH_BITS)}

"""Vectors of texts without a network: words weighted by how well they predict a match, projected to few dimensions.

A word's weight is that of record linkage (Fellegi and Sunter 1969): m * log(m / u), where u is the share of the items
that have the word and m the probability that both items of a known match have it when one has. Words that matching
items write in two ways, or that one of them leaves out, so weigh little, however rare they are. Without known matches
m is the same for all words, and the weights are those of inverse document frequency.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer

from mlim.errors import InputError
from mlim.files import atomic_file
from mlim.matching.text_words import FORMAT, words_of
from mlim.matching.vectors import Values, Vectors, open_vectors, save_vectors, unit
from mlim.pairs.similarities import NO_WORD, Places

MOST_WORDS: Final = 200_000
PRIOR_MATCHES: Final = 10.0  # known matches that the mean m counts as: a word of one match says little
KEPT_WITHOUT_MATCHES: Final = 0.9
SVD_PASSES: Final = 2
TEXTS_AT_ONCE: Final = 20_000
HASHES_FILE: Final = "texts.npy"  # 64-bit hashes (n,) of the texts beside their vectors
UNKNOWN: Final = -1

Matrix = Any  # a sparse matrix of scipy (texts, words)


@dataclass(frozen=True)
class TextEncoder:
    """From texts to unit vectors: `weights` (words,) of the `words`, then `projection` (words, dimensions)."""

    words: tuple[str, ...]
    weights: NDArray[np.float32]
    projection: NDArray[np.float32]

    @property
    def dimensions(self) -> int:
        """Of the vectors."""
        return int(self.projection.shape[1])

    @property
    def origin(self) -> str:
        """Names the encoder by its content, and by what a word is."""
        digest = hashlib.sha256(json.dumps([FORMAT, self.words]).encode())
        digest.update(self.weights.tobytes())
        digest.update(self.projection.tobytes())
        return f"text:{digest.hexdigest()}"

    def encode(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Unit vectors of the texts, some thousands at a time; a text without a known word has the vector 0."""
        counter = CountVectorizer(analyzer=words_of, binary=True, vocabulary=list(self.words))
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            counts = counter.transform(texts[start : start + TEXTS_AT_ONCE]).astype(np.float32)
            yield unit(np.asarray(counts.multiply(self.weights[None, :]).tocsr() @ self.projection))

    def save(self, path: Path) -> None:
        """Write the encoder; `load` reads it back."""
        with atomic_file(path) as temporary, temporary.open("wb") as target:
            np.savez(target, words=np.array(self.words), weights=self.weights, projection=self.projection)

    @staticmethod
    def load(path: Path) -> "TextEncoder":
        """The encoder that `save` wrote; `InputError` when it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                words = tuple(map(str, stored["words"].tolist()))
                return TextEncoder(words, stored["weights"], stored["projection"])
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: is no text encoder ({error}); delete it, it is made again") from None


def fit_text_encoder(texts: Sequence[str], first: Places, second: Places, dimensions: int, seed: int) -> TextEncoder:
    """An encoder learned from texts (n,) and the places of known matches in them, first (m,) and second (m,).

    Use training matches alone: those of a test would be measured on themselves.
    """
    counter = CountVectorizer(analyzer=words_of, binary=True, max_features=MOST_WORDS)
    try:
        counts = counter.fit_transform(texts).astype(np.float32).tocsr()
    except ValueError:  # no text has a word
        counts = counter.fit_transform([NO_WORD]).astype(np.float32).tocsr()
    words = tuple(map(str, counter.get_feature_names_out().tolist()))
    weights = _weights(counts, first, second)
    return TextEncoder(words, weights, _projection(counts, weights, dimensions, seed))


def text_vectors(folder: Path, ids: Sequence[str], texts: Sequence[str], encoder: TextEncoder) -> Vectors:
    """The vectors of the `texts` (n,) of the items `ids` (n,), in `folder`; texts whose vectors are there keep them.

    Texts are told by 64-bit hashes; among a million, the chance that any two have equal ones is one in 37 million.
    """
    hashes = pd.util.hash_array(np.array(texts, dtype=object), categorize=False)
    values, rows = _known(folder, encoder, hashes)
    blocks = _encoded(encoder, texts, values, rows)
    made = save_vectors(folder, ids, blocks, encoder.dimensions, encoder.origin)
    np.save(folder / HASHES_FILE, hashes)
    return made


def _known(folder: Path, encoder: TextEncoder, hashes: NDArray[np.uint64]) -> tuple[Values, Places]:
    """The vectors in `folder`, and the row (n,) in them of each text, UNKNOWN where it has none."""
    try:
        before, held = open_vectors(folder), np.load(folder / HASHES_FILE, allow_pickle=False)
    except (InputError, OSError, ValueError, EOFError):
        return np.empty((0, encoder.dimensions), np.float16), np.full(len(hashes), UNKNOWN, dtype=np.int64)
    if before.origin != encoder.origin or len(held) != len(before.ids):
        return before.values, np.full(len(hashes), UNKNOWN, dtype=np.int64)
    distinct, first = np.unique(held, return_index=True)
    at = np.minimum(np.searchsorted(distinct, hashes), max(len(distinct) - 1, 0))
    known = distinct[at] == hashes if len(distinct) else np.zeros(len(hashes), dtype=bool)
    return before.values, np.where(known, first[at] if len(distinct) else UNKNOWN, UNKNOWN).astype(np.int64)


def _encoded(encoder: TextEncoder, texts: Sequence[str], values: Values, rows: Places) -> Iterator[Values]:
    """Vectors of all texts in order, some thousands at a time; of those with a row in `values` they are taken there."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        row = rows[start : start + TEXTS_AT_ONCE]
        block = np.empty((len(row), encoder.dimensions), dtype=np.float16)
        known, new = np.flatnonzero(row != UNKNOWN), np.flatnonzero(row == UNKNOWN)
        block[known] = values[row[known]]
        if len(new):
            [block[new]] = encoder.encode([texts[start + place] for place in new.tolist()])
        yield block


def _weights(counts: Matrix, first: Places, second: Places) -> NDArray[np.float32]:
    share = np.asarray(counts.mean(axis=0), dtype=np.float64).ravel()
    kept = _kept(counts, first, second)
    return np.asarray(kept * np.maximum(np.log(kept / share), 0), dtype=np.float32)


def _kept(counts: Matrix, first: Places, second: Places) -> NDArray[np.float64]:
    """For each word: how probably both items of a match have it when one has."""
    if not len(first):
        return np.full(counts.shape[1], KEPT_WITHOUT_MATCHES)
    one, other = counts[first], counts[second]
    both = np.asarray(one.multiply(other).sum(axis=0), dtype=np.float64).ravel()
    either = np.asarray(one.sum(axis=0) + other.sum(axis=0), dtype=np.float64).ravel() - both
    mean = both.sum() / max(either.sum(), 1)
    return np.asarray((both + PRIOR_MATCHES * mean) / (either + PRIOR_MATCHES))


def _projection(counts: Matrix, weights: NDArray[np.float32], dimensions: int, seed: int) -> NDArray[np.float32]:
    if counts.shape[1] <= dimensions or counts.shape[0] <= dimensions:
        return _few_words(counts.shape[1], dimensions, seed)
    fitted = TruncatedSVD(dimensions, n_iter=SVD_PASSES, random_state=seed).fit(counts.multiply(weights[None, :]))
    return np.ascontiguousarray(fitted.components_.T, dtype=np.float32)


def _few_words(words: int, dimensions: int, seed: int) -> NDArray[np.float32]:
    """Every word a dimension of its own; in a tiny catalog with more words than that, a random projection of them."""
    if words <= dimensions:
        return np.eye(words, dtype=np.float32)
    drawn = np.random.default_rng(seed).normal(size=(words, dimensions)) / np.sqrt(dimensions)
    return np.asarray(drawn, dtype=np.float32)

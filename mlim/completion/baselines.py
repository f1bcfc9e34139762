"""What is right without a model of text and picture: the most frequent value, and boosted trees on the text."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlim.completion.values import Candidates
from mlim.pairs.similarities import NO_WORD, WORD

WORDS: Final = 300  # the most frequent ones of the training texts
MOST_ROUNDS, ALL_TREES = 200, 4000  # a round has a tree for each value
SETTINGS: Final = {  # without the penalty, leaves of few items are certain, and wrong
    "learning_rate": 0.1,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 5,
    "l2_regularization": 10.0,
    "early_stopping": False,
}

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def by_frequency(candidates: Candidates, cells: int) -> Floats:
    """The share of each value among the training items, for every one of so many cells (cells, values)."""
    return np.tile(candidates.shares, (cells, 1))


def by_trees(texts: Sequence[str], places: Places, judged: Sequence[str], candidates: Candidates, seed: int) -> Floats:
    """Probabilities (judged, values) by gradient-boosted trees over the words of texts.

    They are fitted on training texts in which the value is hidden, and on the places of these values.
    """
    counter = CountVectorizer(token_pattern=WORD, binary=True, max_features=WORDS, dtype=np.float32)
    words = counter.fit_transform([*texts, NO_WORD]).toarray()[:-1]
    found = np.zeros((len(judged), len(candidates.values)))
    rounds = max(min(MOST_ROUNDS, ALL_TREES // len(candidates.values)), 1)
    with threadpool_limits(limits=1):
        trees = HistGradientBoostingClassifier(**SETTINGS, max_iter=rounds, random_state=seed).fit(words, places)
        found[:, trees.classes_] = trees.predict_proba(counter.transform(judged).toarray())
    return found

"""Classifiers of pairs that learn no representation: the bar that a model must beat.

Both are fitted on the training pairs and tuned on the validation pairs, as the model is. They run on one thread: on a
busy machine scikit-learn's threads spin for each other, thirty times slower than one alone.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlim.errors import DataError
from mlim.pairs.similarities import NO_WORD, WORD

TREE_SETTINGS: Final = {"max_iter": 200, "learning_rate": 0.05, "max_leaf_nodes": 15, "early_stopping": False}
WORDS: Final = 20_000  # the most frequent ones of the training texts
STRENGTHS: Final = (0.01, 0.1, 1.0)  # of the fit against its penalty; the best on the validation pairs is taken
ITERATIONS: Final = 500

Places = NDArray[np.int64]
Chosen = NDArray[np.bool_]
Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


class PairTrees(NamedTuple):
    """Gradient-boosted trees over similarities: of the `trees` the first `stages`, of the features the `known` ones."""

    trees: HistGradientBoostingClassifier
    stages: int
    known: Chosen

    def score(self, features: Any) -> Scores:
        """Probability (n,) of a match from similarities (n, k), NaN where unknown."""
        with threadpool_limits(limits=1):
            staged = self.trees.staged_predict_proba(features[:, self.known])
            return np.asarray(next(islice(staged, self.stages - 1, None))[:, 1], dtype=np.float64)


def fit_trees(features: Any, labels: Labels, training: Chosen, validation: Chosen, seed: int) -> PairTrees:
    """Trees fitted on the training pairs, as many as score best on the validation pairs.

    `features` (n, k) are similarities, NaN where unknown; `training` and `validation` (n,) choose pairs. `DataError`
    when the training pairs have only one label.
    """
    check_labels(labels[training])
    known = ~np.isnan(features[training]).all(axis=0)  # a feature that is never known stops the binning
    with threadpool_limits(limits=1):
        trees = HistGradientBoostingClassifier(**TREE_SETTINGS, random_state=seed)
        trees.fit(features[training][:, known], labels[training])
        stages = [staged[:, 1] for staged in trees.staged_predict_proba(features[validation][:, known])]
    best = int(np.argmax([average_precision_score(labels[validation], stage) for stage in stages]))
    return PairTrees(trees, best + 1, known)


def check_labels(labels: Labels) -> None:
    """`DataError` unless there are training pairs of both labels."""
    if np.unique(labels).size < 2:
        raise DataError(f"all {labels.size} training pairs have one label; check the rule in `pairs`")


class PairWords(NamedTuple):
    """Logistic regression over the words that both texts of a pair have, and over those that one of them has."""

    counter: CountVectorizer
    regression: LogisticRegression

    def score(self, texts: Sequence[str], first: Places, second: Places) -> Scores:
        """Probability (n,) of a match of texts[first] and texts[second]; their order does not matter."""
        features = _shared_and_single(self.counter, texts, first, second)
        with threadpool_limits(limits=1):
            return np.asarray(self.regression.predict_proba(features)[:, 1], dtype=np.float64)


def fit_words(
    texts: Sequence[str], first: Places, second: Places, labels: Labels, training: Chosen, validation: Chosen
) -> PairWords:
    """A regression fitted on the training pairs, with the penalty that scores best on the validation pairs.

    Pairs are texts[first] and texts[second]. `DataError` when the training pairs have only one label.
    """
    check_labels(labels[training])
    known = [texts[place] for place in np.union1d(first[training], second[training])]
    counter = CountVectorizer(token_pattern=WORD, binary=True, max_features=WORDS, dtype=np.float32)
    counter.fit([*known, NO_WORD])
    learned, judged = (
        _shared_and_single(counter, texts, first[chosen], second[chosen]) for chosen in (training, validation)
    )
    with threadpool_limits(limits=1):
        tried = [
            LogisticRegression(C=strength, solver="liblinear", max_iter=ITERATIONS, random_state=0).fit(
                learned, labels[training]
            )
            for strength in STRENGTHS
        ]
        scores = [average_precision_score(labels[validation], one.predict_proba(judged)[:, 1]) for one in tried]
    return PairWords(counter, tried[int(np.argmax(scores))])


def _shared_and_single(counter: CountVectorizer, texts: Sequence[str], first: Places, second: Places) -> Any:
    """One row for each pair: 1 for each word in both texts, then 1 for each word in only one of them."""
    words = csr_array(counter.transform(texts))
    one, other = words[first], words[second]
    return hstack([one.multiply(other), abs(one - other)], format="csr")

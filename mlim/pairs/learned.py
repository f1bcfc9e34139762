"""Classifiers of pairs that learn no representation: the bar that a model must beat.

Both are fitted on the training pairs and tuned on the validation pairs, as the model is. They run on one thread: on a
busy machine scikit-learn's threads spin for each other, thirty times slower than one alone.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

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


def boosted_trees(features: Any, labels: Labels, training: Chosen, validation: Chosen, seed: int) -> Scores:
    """Probability of a match for every pair, with as many trees as score best on the validation pairs.

    `features` (n, k) are similarities, NaN where unknown; `training` and `validation` (n,) choose pairs. `DataError`
    when the training pairs have only one label.
    """
    check_labels(labels[training])
    features = features[:, ~np.isnan(features[training]).all(axis=0)]  # a feature that is never known stops the binning
    with threadpool_limits(limits=1):
        trees = HistGradientBoostingClassifier(**TREE_SETTINGS, random_state=seed)
        trees.fit(features[training], labels[training])
        stages = [staged[:, 1] for staged in trees.staged_predict_proba(features[validation])]
        best = int(np.argmax([average_precision_score(labels[validation], stage) for stage in stages]))
        return np.asarray(next(islice(trees.staged_predict_proba(features), best, None))[:, 1], dtype=np.float64)


def check_labels(labels: Labels) -> None:
    """`DataError` unless there are training pairs of both labels."""
    if np.unique(labels).size < 2:
        raise DataError(f"all {labels.size} training pairs have one label; check the rule in `pairs`")


def bag_of_words(
    texts: Sequence[str], first: Places, second: Places, labels: Labels, training: Chosen, validation: Chosen
) -> Scores:
    """Probability of a match for every pair: logistic regression over the words both texts have, and those one has.

    Pairs are texts[first] and texts[second]; their order does not matter. `DataError` when the training pairs have only
    one label.
    """
    check_labels(labels[training])
    features = _shared_and_single(texts, first, second, training)
    with threadpool_limits(limits=1):
        tried = list(_regressions(features, labels, training))
        scores = [average_precision_score(labels[validation], scored[validation]) for scored in tried]
    return tried[int(np.argmax(scores))]


def _regressions(features: Any, labels: Labels, training: Chosen) -> Iterator[Scores]:
    for strength in STRENGTHS:
        regression = LogisticRegression(C=strength, solver="liblinear", max_iter=ITERATIONS, random_state=0)
        regression.fit(features[training], labels[training])
        yield np.asarray(regression.predict_proba(features)[:, 1], dtype=np.float64)


def _shared_and_single(texts: Sequence[str], first: Places, second: Places, training: Chosen) -> Any:
    """One row for each pair: 1 for each word in both texts, then 1 for each word in only one of them."""
    known = [texts[place] for place in np.union1d(first[training], second[training])]
    counter = CountVectorizer(token_pattern=WORD, binary=True, max_features=WORDS, dtype=np.float32)
    words = csr_array(counter.fit([*known, NO_WORD]).transform(texts))
    one, other = words[first], words[second]
    return hstack([one.multiply(other), abs(one - other)], format="csr")

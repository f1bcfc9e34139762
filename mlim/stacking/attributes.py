"""Classifiers of attributes: what an item's text and picture say about an attribute that may be hidden from the text.

A pair rule labels pairs by an attribute (`decided_by`); the model is not shown it. A classifier that tells it from text
and picture turns one label for each pair into one for each item, of which there are more kinds. Whether two items agree
in an attribute is then the probability that both have the same value.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlim.pairs.similarities import NO_WORD, WORD, Places, Vector
from mlim.stacking.items import Items, texts_at

TEXT_DIMENSIONS: Final = 150  # of the texts' latent semantic analysis
TERMS: Final = 20_000  # words and pairs of words that it reads, the most frequent ones
STRENGTH: Final = 0.01  # of the fit against its penalty, on features of spread 1
ITERATIONS: Final = 100
OTHER: Final = ""  # stands for the values beyond the most frequent ones

Groups = NDArray[np.int64]
Values = Mapping[str, Sequence[str]]
Probabilities = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class AttributeClassifiers:
    """One multinomial regression for each attribute, on a text's latent semantics and the measures of a picture."""

    texts: Pipeline
    pictures: StandardScaler
    by_name: dict[str, LogisticRegression]

    def probabilities(self, items: Items) -> Probabilities:
        """The probability of every value (n, values), by attribute."""
        features = self._features(items)
        with threadpool_limits(limits=1):
            return {name: _as_probabilities(one.predict_proba(features)) for name, one in self.by_name.items()}

    def _features(self, items: Items) -> NDArray[np.float32]:
        parts = [self.texts.transform(items.texts), self.pictures.transform(items.measures)]
        return np.hstack(parts).astype(np.float32)


def fit_classifiers(
    items: Items, values: Values, training: NDArray[np.bool_], groups: Groups, folds: int, seed: int
) -> tuple[AttributeClassifiers, Probabilities]:
    """Classifiers of the attributes in `values` (n values each, "" where unknown), fitted on the training items.

    The probabilities that come with them are for all items. Those of training items are out of fold: from classifiers
    that saw no item of the same group (`groups` (n,): families), so that they are as unsure as for new items.
    """
    known = np.flatnonzero(training)
    texts = _fit_texts(texts_at(items, training), seed)
    pictures = StandardScaler().fit(items.measures[known])
    found = AttributeClassifiers(texts, pictures, {})
    features = found._features(items)
    probabilities: Probabilities = {}
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that ends early, or a rare value that is in one fold only, will do
        for name, of_name in values.items():
            cells = np.array(of_name, dtype=object)
            held = known[cells[known] != OTHER]
            found.by_name[name] = _regression().fit(features[held], cells[held])
            probabilities[name] = _as_probabilities(found.by_name[name].predict_proba(features))
            if np.unique(groups[held]).size >= folds:
                probabilities[name][held] = _out_of_fold(features[held], cells[held], groups[held], folds)
    return found, probabilities


def _regression() -> LogisticRegression:
    return LogisticRegression(C=STRENGTH, max_iter=ITERATIONS)


def _out_of_fold(
    features: NDArray[np.float32], values: NDArray[np.object_], groups: Groups, folds: int
) -> NDArray[np.float32]:
    cut = GroupKFold(folds)
    return _as_probabilities(
        cross_val_predict(_regression(), features, values, groups=groups, cv=cut, method="predict_proba")
    )


def chosen_attributes(
    deciding: Sequence[Mapping[str, Any]],
    attributes: Sequence[Mapping[str, Any]],
    training: NDArray[np.bool_],
    most: int,
    most_values: int,
) -> dict[str, list[str]]:
    """The values of at most `most` attributes worth a classifier: those that decide labels first, then what is read.

    Each item (n,) has its deciding attributes and its others. An attribute needs two values among the training items;
    of more than `most_values` only the most frequent ones keep their names.
    """
    found: dict[str, list[str]] = {}
    for table in (deciding, attributes):
        for name in dict.fromkeys(name for one in table for name in one):
            if len(found) < most and name not in found:
                values = [str(one.get(name) or OTHER) for one in table]
                counts = Counter(values[place] for place in np.flatnonzero(training) if values[place] != OTHER)
                kept = {value for value, _ in counts.most_common(most_values)}
                if len(kept) > 1:
                    found[name] = [value if value in kept else OTHER for value in values]
    return found


def agreements(probabilities: Probabilities, first: Places, second: Places) -> dict[str, Vector]:
    """For each attribute: the probability that two items have the same value, and the confidence of that."""
    columns: dict[str, Vector] = {}
    for name, values in probabilities.items():
        one, other = values[first], values[second]
        columns[f"agree:{name}"] = (one * other).sum(axis=1)
        columns[f"overlap:{name}"] = np.sqrt(one * other).sum(axis=1)
        columns[f"apart:{name}"] = np.abs(one - other).sum(axis=1)
        columns[f"sure:{name}"] = one.max(axis=1) * other.max(axis=1)
    return columns


def _fit_texts(texts: Sequence[str], seed: int) -> Pipeline:
    """Latent semantic analysis of the texts, each dimension with spread 1."""
    words = TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), max_features=TERMS, sublinear_tf=True)
    known = [*texts, NO_WORD]  # texts without a word give no vocabulary
    dimensions = min(TEXT_DIMENSIONS, len(words.fit(known).vocabulary_))
    latent = TruncatedSVD(dimensions, random_state=seed)
    return Pipeline([("words", words), ("latent", latent), ("scale", StandardScaler())]).fit(known)


def _as_probabilities(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)

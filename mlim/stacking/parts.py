"""The parts of a stack that learn no representation, fitted on the training pairs.

- `trees`: gradient-boosted trees over similarities of texts and pictures and over agreements of attributes;
- `words`: a regression over the words that both texts have, and over those that one of them has;
- `agree:ATTRIBUTE`: the probability that both items have the same value of an attribute.

All of them read texts and pictures alone, so that what a request sends is enough to score a pair.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from mlim.pairs.learned import Chosen, Labels, PairTrees, PairWords, Places, Scores, fit_trees, fit_words
from mlim.pairs.similarities import text_similarities, word_vectors
from mlim.stacking.attributes import (
    AttributeClassifiers,
    Groups,
    Probabilities,
    Values,
    agreements,
    fit_classifiers,
)
from mlim.stacking.items import Items, texts_at
from mlim.stacking.pictures import picture_similarities, texture_similarities

TREES: Final = "trees"
WORDS: Final = "words"
AGREE: Final = "agree:"


@dataclass(frozen=True)
class Parts:
    """All parts, fitted."""

    vectors: TfidfVectorizer
    classifiers: AttributeClassifiers
    trees: PairTrees
    words: PairWords

    def scores(self, items: Items, first: Places, second: Places) -> pd.DataFrame:
        """The score in [0, 1] of every pair (n,), a column for each part; pairs are items[first] and items[second]."""
        probabilities = self.classifiers.probabilities(items)
        similar = _similarities(items, self.vectors, probabilities, first, second)
        found: dict[str, Scores] = {
            TREES: self.trees.score(similar.to_numpy()),
            WORDS: self.words.score(items.texts, first, second),
            **{f"{AGREE}{name}": similar[f"{AGREE}{name}"].to_numpy(np.float64) for name in probabilities},
        }
        return pd.DataFrame(found).clip(0, 1)


@dataclass(frozen=True)
class Learned:
    """What the parts are fitted on: items (n,) with their families and attributes, and pairs (m,) of their places."""

    items: Items
    training_items: NDArray[np.bool_]
    families: Groups
    values: Values
    first: Places
    second: Places
    labels: Labels
    training: Chosen
    validation: Chosen


def fit_parts(learned: Learned, folds: int, seed: int) -> Parts:
    """All parts, fitted on the training items and pairs and tuned on the validation pairs.

    `DataError` when the training pairs have only one label.
    """
    items, first, second = learned.items, learned.first, learned.second
    vectors = word_vectors(texts_at(items, learned.training_items))
    classifiers, probabilities = fit_classifiers(
        items, learned.values, learned.training_items, learned.families, folds, seed
    )
    similar = _similarities(items, vectors, probabilities, first, second)
    labels, training, validation = learned.labels, learned.training, learned.validation
    trees = fit_trees(similar.to_numpy(), labels, training, validation, seed)
    words = fit_words(items.texts, first, second, labels, training, validation)
    return Parts(vectors, classifiers, trees, words)


def _similarities(
    items: Items, vectors: TfidfVectorizer, probabilities: Probabilities, first: Places, second: Places
) -> pd.DataFrame:
    """What the trees read, one row for each pair."""
    groups = (
        text_similarities(items.texts, vectors, first, second),
        picture_similarities(items.pictures, first, second),
        texture_similarities(items.pictures, first, second),
        agreements(probabilities, first, second),
    )
    return pd.DataFrame({str(name): values for group in groups for name, values in group.items()})

"""The parts of a stack that learn no representation, fitted on the training pairs.

- `trees`: gradient-boosted trees over similarities of texts and pictures and over agreements of attributes;
- `columns`: the same with the similarities of the columns that the texts are made from, as a baseline compares them;
- `words`: a regression over the words that both texts have, and over those that one of them has;
- `agree:ATTRIBUTE`: the probability that both items have the same value of an attribute.

All but `columns` read texts and pictures alone, which every request has. A pair of which an item's columns are not
known has no score by `columns`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from mlim.pairs.learned import Chosen, Labels, PairTrees, PairWords, Places, Scores, fit_trees, fit_words
from mlim.pairs.similarities import Vector, attribute_similarities, text_similarities, word_vectors
from mlim.stacking.attributes import (
    AttributeClassifiers,
    Groups,
    Probabilities,
    Values,
    agreements,
    fit_classifiers,
)
from mlim.stacking.items import Columns, Items, texts_at
from mlim.stacking.pictures import picture_similarities, texture_similarities

TREES: Final = "trees"
COLUMNS: Final = "columns"
WORDS: Final = "words"
AGREE: Final = "agree:"


class ColumnTrees(NamedTuple):
    """Trees over everything that `trees` read, and over the similarities of the columns called `names`."""

    names: tuple[str, ...]
    trees: PairTrees

    def score(self, similar: pd.DataFrame, columns: Sequence[Columns], first: Places, second: Places) -> Scores:
        """Probability (n,) of a match; NaN where one of the two items has less than half of these columns.

        `similar` (n, k) is what `trees` read, `columns` are those of the items that `first` and `second` (n,) name.
        """
        known = np.array([2 * sum(name in one for name in self.names) >= len(self.names) for one in columns])
        told = np.flatnonzero(known[first] & known[second])
        found = np.full(len(first), np.nan)
        if told.size:
            compared = _with_columns(similar.iloc[told], self.names, columns, first[told], second[told])
            found[told] = self.trees.score(compared)
        return found


@dataclass(frozen=True)
class Parts:
    """All parts, fitted; `columns` is None for items without columns, and in stacks of earlier versions."""

    vectors: TfidfVectorizer
    classifiers: AttributeClassifiers
    trees: PairTrees
    words: PairWords
    columns: ColumnTrees | None = None

    def scores(self, items: Items, first: Places, second: Places) -> pd.DataFrame:
        """The score in [0, 1] of every pair (n,), a column for each part; pairs are items[first] and items[second].

        The score by `columns` is NaN where the columns of an item are not known.
        """
        probabilities = self.classifiers.probabilities(items)
        similar = _similarities(items, self.vectors, probabilities, first, second)
        found: dict[str, Scores] = {
            TREES: self.trees.score(similar.to_numpy()),
            **({} if self.columns is None else {COLUMNS: self.columns.score(similar, items.columns, first, second)}),
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
    names = tuple(dict.fromkeys(name for one in items.columns for name in one))
    compared = _with_columns(similar, names, items.columns, first, second)
    columns = ColumnTrees(names, fit_trees(compared, labels, training, validation, seed)) if names else None
    return Parts(vectors, classifiers, trees, words, columns)


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


def _with_columns(
    similar: pd.DataFrame, names: Sequence[str], columns: Sequence[Columns], first: Places, second: Places
) -> Vector:
    """The same (n, k) with the similarities of the columns called `names`, which are compared as a baseline does."""
    of_names = [{name: one.get(name, "") for name in names} for one in columns]
    return np.column_stack([similar.to_numpy(), *attribute_similarities(of_names, first, second).values()])

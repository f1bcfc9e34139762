"""The stack of the matcher and the other parts, stacks that leave one of them out, and which scorer is registered."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from mlim.pairs.learned import Labels, Places, Scores
from mlim.recipe.base import Scorer
from mlim.recipe.evaluate import StackConfig
from mlim.stacking.combine import Combination, Families, combine, cross_fitted
from mlim.stacking.features import LiteFeatures
from mlim.stacking.items import Items
from mlim.stacking.parts import AGREE, COLUMNS, TREES, Parts
from mlim.stacking.pictures import Measure, picture_of
from mlim.stacking.scorers import CANDIDATES, MATCHER, STACK

ATTRIBUTES: Final = "attributes"


class Stack(NamedTuple):
    """What scores pairs: parts and their combination.

    `without_columns` has `trees` in place of `columns`, for pairs of which an item's columns are not known; None where
    no part reads columns. `features` are read of pictures, where the parts were fitted with them.
    """

    parts: Parts
    combination: Combination
    without_columns: Combination | None = None
    features: LiteFeatures | None = None

    @property
    def measure(self) -> Measure:
        """What measures a picture as the parts read it."""
        return picture_of if self.features is None else self.features.measure

    @property
    def reads_matcher(self) -> bool:
        """Whether the matcher is among the parts."""
        return MATCHER in self.combination.parts

    def score(self, items: Items, first: Places, second: Places, matcher: Callable[[], Scores]) -> Scores:
        """The scores (n,) of the pairs items[first], items[second].

        `matcher` gives its scores (n,) of these pairs; it is not called where they are not needed.
        """
        scores = self.parts.scores(items, first, second)
        if self.reads_matcher:
            scores[MATCHER] = matcher()
        if self.without_columns is None:
            return self.combination.score(scores)
        found, known = np.empty(len(scores)), scores[COLUMNS].notna().to_numpy()
        for combination, chosen in ((self.combination, known), (self.without_columns, ~known)):
            if chosen.any():
                found[chosen] = combination.score(scores[chosen])
        return found


class Stacked(NamedTuple):
    """Scorers of the same pairs.

    `scores` (n, scorers) has the matcher, every other part and every combination; `combinations` by name;
    `validation` is the PR-AUC of each on the validation pairs; `chosen` is what is registered, and `without_columns`
    what it is combined from where the columns of an item are not known.
    """

    scores: pd.DataFrame
    combinations: Mapping[str, Combination]
    validation: Mapping[str, float]
    chosen: Scorer
    without_columns: Combination | None = None

    def stack(self, parts: Parts, features: LiteFeatures | None = None) -> Stack:
        """What scores as the chosen combination does, where that is not the matcher alone."""
        return Stack(parts, self.combinations[self.chosen], self.without_columns, features)


def stack_parts(
    parts: pd.DataFrame, labels: Labels, families: Families, validation: NDArray[np.bool_], config: StackConfig
) -> Stacked:
    """Combine the scores (n, parts) of validation and test pairs; `validation` (n,) chooses the former.

    `parts` has a column `matcher`. Combinations are fitted on the validation pairs and cross-fitted there over families
    (n, 2): nothing of the test pairs is used.
    """
    judged = np.flatnonzero(validation)
    scores, combinations, held = parts.copy(), {}, parts.iloc[judged]
    for name, columns in _combinations(list(parts.columns)).items():
        combinations[name] = combine(held, columns, labels[judged])
        values = combinations[name].score(parts)
        values[judged] = cross_fitted(held, columns, labels[judged], families[judged], config.folds)
        scores[name] = values
    reached = {str(name): float(average_precision_score(labels[judged], scores[name].iloc[judged])) for name in scores}
    chosen = choose_scorer(reached, config)
    without = None if chosen == MATCHER else _without_columns(combinations[chosen], held, labels[judged])
    return Stacked(scores, combinations, reached, chosen, without)


def _without_columns(combination: Combination, held: pd.DataFrame, labels: Labels) -> Combination | None:
    """The same with `trees` in place of `columns`, fitted on the same pairs; None where it has no `columns`."""
    parts = [TREES if name == COLUMNS else name for name in combination.parts]
    return combine(held, parts, labels) if COLUMNS in combination.parts else None


def choose_scorer(validation: Mapping[str, float], config: StackConfig) -> Scorer:
    """What is registered by the recipe's policy, from the PR-AUC on validation pairs."""
    match config.register_policy:
        case "matcher":
            return MATCHER
        case "best":
            return max(CANDIDATES, key=lambda name: validation[name])


def _combinations(parts: Sequence[str]) -> dict[str, list[str]]:
    """The stack of all parts, and for each part, or all attributes together, the stack without it.

    Trees are one part, which compares columns or does not: without `trees` there are neither.
    """
    groups: dict[str, list[str]] = {}
    for name in parts:
        groups.setdefault(ATTRIBUTES if name.startswith(AGREE) else name, []).append(name)
    if COLUMNS in parts:
        groups[TREES].append(COLUMNS)
    left = {f"stack without {group}": [name for name in parts if name not in out] for group, out in groups.items()}
    return {name: _best_trees(found) for name, found in {STACK: list(parts), **left}.items()}


def _best_trees(parts: Sequence[str]) -> list[str]:
    """Of the trees those that compare columns, where they are among the parts."""
    return [name for name in parts if name != TREES or COLUMNS not in parts]


def only_matcher(scores: Scores, labels: Labels, validation: NDArray[np.bool_]) -> Stacked:
    """The matcher alone, for a main variant that reads one modality: the other parts read both."""
    reached = float(average_precision_score(labels[validation], scores[validation]))
    return Stacked(pd.DataFrame({MATCHER: scores}), {}, {MATCHER: reached}, MATCHER)

"""The stack of the matcher and the other parts, stacks that leave one of them out, and which scorer is registered."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from mlim.pairs.learned import Labels, Scores
from mlim.recipe.base import Scorer
from mlim.recipe.evaluate import StackConfig
from mlim.stacking.combine import Combination, Families, combine, cross_fitted
from mlim.stacking.parts import AGREE
from mlim.stacking.scorers import CANDIDATES, MATCHER, STACK

ATTRIBUTES: Final = "attributes"


class Stacked(NamedTuple):
    """Scorers of the same pairs.

    `scores` (n, scorers) has the matcher, every other part and every combination; `combinations` by name;
    `validation` is the PR-AUC of each on the validation pairs; `chosen` is what is registered.
    """

    scores: pd.DataFrame
    combinations: Mapping[str, Combination]
    validation: Mapping[str, float]
    chosen: Scorer


def stack_parts(
    parts: pd.DataFrame, labels: Labels, families: Families, validation: NDArray[np.bool_], config: StackConfig
) -> Stacked:
    """Combine the scores (n, parts) of validation and test pairs; `validation` (n,) chooses the former.

    `parts` has a column `matcher`. Combinations are fitted on the validation pairs and cross-fitted there over families
    (n, 2): nothing of the test pairs is used.
    """
    judged = np.flatnonzero(validation)
    scores, combinations = parts.copy(), {}
    for name, columns in _combinations(list(parts.columns)).items():
        held = parts.iloc[judged]
        combinations[name] = combine(held, columns, labels[judged])
        values = combinations[name].score(parts)
        values[judged] = cross_fitted(held, columns, labels[judged], families[judged], config.folds)
        scores[name] = values
    reached = {str(name): float(average_precision_score(labels[judged], scores[name].iloc[judged])) for name in scores}
    return Stacked(scores, combinations, reached, choose_scorer(reached, config))


def choose_scorer(validation: Mapping[str, float], config: StackConfig) -> Scorer:
    """What is registered by the recipe's policy, from the PR-AUC on validation pairs."""
    match config.register_policy:
        case "matcher":
            return MATCHER
        case "best":
            return max(CANDIDATES, key=lambda name: validation[name])


def _combinations(parts: Sequence[str]) -> dict[str, list[str]]:
    """The stack of all parts, and for each part, or all attributes together, the stack without it."""
    groups: dict[str, list[str]] = {}
    for name in parts:
        groups.setdefault(ATTRIBUTES if name.startswith(AGREE) else name, []).append(name)
    without = {f"stack without {group}": [name for name in parts if name not in left] for group, left in groups.items()}
    return {STACK: list(parts), **without}


def only_matcher(scores: Scores, labels: Labels, validation: NDArray[np.bool_]) -> Stacked:
    """The matcher alone, for a main variant that reads one modality: the other parts read both."""
    reached = float(average_precision_score(labels[validation], scores[validation]))
    return Stacked(pd.DataFrame({MATCHER: scores}), {}, {MATCHER: reached}, MATCHER)

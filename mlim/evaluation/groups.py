"""Where a model is good and where it is not: figures of the test pairs by category and by kind of variation."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.evaluation.pr_auc import Ranking

ACROSS: Final = "across categories"
COLUMNS: Final = ("group", "pairs", "matches", "pr_auc", "right")


def describe_pairs(scores: pd.DataFrame, pairs: pd.DataFrame, categories: Mapping[str, str]) -> pd.DataFrame:
    """The scored pairs with the columns kind (from pairs.parquet) and category (of both items, or `ACROSS`).

    `scores` has item_a, item_b, label, score; `pairs` has item_a, item_b, kind; `categories` maps an item to its
    category, items without one may be missing.
    """
    found = scores.merge(pairs[["item_a", "item_b", "kind"]], on=["item_a", "item_b"], how="left", validate="1:1")
    first, second = (found[side].map(categories) for side in ("item_a", "item_b"))
    return found.assign(category=first.where(first == second, ACROSS))


def group_figures(described: pd.DataFrame, column: str, threshold: float) -> pd.DataFrame:
    """One line for each group in `column`, the largest first: pairs, matches, pr_auc, share decided right.

    PR-AUC is at the share of matches that the whole test set has, so that groups can be compared. Of a group with one
    label only (a kind of variation is one) it is that of its pairs among all pairs of the other label.
    """
    labels, scores = described["label"].to_numpy(np.int64), described["score"].to_numpy(np.float64)
    ranking = Ranking(labels, scores)
    right = (scores >= threshold) == (labels == 1)
    groups = described[column].to_numpy(dtype=object)
    rows = []
    for group in described[column].value_counts(sort=True).index:
        inside = groups == group
        weights = _weights(labels, inside)
        rows.append(
            (
                str(group),
                int(inside.sum()),
                int(labels[inside].sum()),
                float(ranking.average_precision(weights[:, None])[0]),
                float(right[inside].mean()),
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _weights(labels: NDArray[np.int64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights (n,) of the pairs: a label weighs what it weighs in the whole, shared by its pairs inside the group."""
    weights = np.zeros(labels.size)
    for label in (0, 1):
        of_label = labels == label
        chosen = of_label & inside if (of_label & inside).any() else of_label
        weights[chosen] = of_label.sum() / chosen.sum()
    return weights

"""Pair scores that a fine-tuning left behind, in one order, so that scorings of the same pairs can be compared."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from mlim.errors import DataError, InputError
from mlim.evaluation.pr_auc import Labels, Scores
from mlim.recipe.base import Modality

SCORES_FILE: Final = "scores.parquet"
PAIR: Final = ["item_a", "item_b", "label"]
MODALITIES: Final[tuple[Modality, ...]] = ("both", "text", "image")


def read_scores(folder: Path, command: str) -> pd.DataFrame:
    """scores.parquet in `folder` (item_a, item_b, label, split, modality, score), in the order of its pairs.

    `InputError` when it is not there, saying that `command` makes it.
    """
    path = folder / SCORES_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing; run `{command}` first")
    return in_order(pd.read_parquet(path))


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows sorted by their pair: the order in which all scorings of the same pairs are compared."""
    return frame.sort_values(["item_a", "item_b"], kind="stable", ignore_index=True)


def part(frame: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows whose columns have the wanted values: `part(scores, split="test", modality="both")`."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame.reset_index(drop=True)


def labels_of(frame: pd.DataFrame) -> Labels:
    """Labels (n,) of the rows, 1 for a match."""
    return frame["label"].to_numpy(dtype=np.int64)


def scores_of(frame: pd.DataFrame) -> Scores:
    """Scores (n,) of the rows."""
    return frame["score"].to_numpy(dtype=np.float64)


def check_same_pairs(expected: pd.DataFrame, found: pd.DataFrame, what: str, command: str) -> None:
    """`DataError` unless both hold the same labelled pairs in the same order; `command` makes `what` again."""
    if not expected[PAIR].astype({"label": "int64"}).equals(found[PAIR].astype({"label": "int64"})):
        raise DataError(f"{what} are scores of other pairs than those to compare with; run `{command}` again")

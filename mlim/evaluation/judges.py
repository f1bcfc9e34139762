"""How the answers of each fine-tuning task besides matching are judged: what its scores.parquet holds, and its figures.

Matching has tables of its own (`mlim ablate`); its PR-AUC is in pr_auc.py and resampling.py.
"""

from typing import Protocol, assert_never

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.errors import InputError
from mlim.evaluation.metrics import captions, recall
from mlim.evaluation.metrics.measure import Figure, Measure
from mlim.recipe.tasks import OtherTask
from mlim.workspace import Workspace


class Judge(Protocol):
    """Judges what a fine-tuning of one task wrote: one row of scores.parquet for each example and split."""

    @property
    def title(self) -> str:
        """What the task is called in tables."""

    @property
    def examples_name(self) -> str:
        """How people call several examples: `items`."""

    @property
    def key(self) -> str:
        """The column that names an example; variants are compared on equal ones."""

    @property
    def spent(self) -> str:
        """The key of summary.json that says how many examples training saw."""

    def figures(self, scores: pd.DataFrame) -> tuple[Figure, ...]:
        """The figures that `measure` gives for the examples of `scores`; the first one stands for the task."""

    def measure(self, scores: pd.DataFrame) -> Measure:
        """What one training answered, from its rows of one split in the order of their keys."""

    def units(self, scores: pd.DataFrame, workspace: Workspace) -> NDArray[np.int64]:
        """The unit (n,) that each example comes and goes with in resamples."""


class RetrievalJudge:
    """Columns: id, split, image_rank, text_rank."""

    title, examples_name, key, spent = "Retrieval", "items", "id", "items_seen"

    def figures(self, scores: pd.DataFrame) -> tuple[Figure, ...]:
        """Recall at 1, 5, 10 in both directions."""
        return recall.FIGURES

    def measure(self, scores: pd.DataFrame) -> Measure:
        """Recall from the ranks."""
        image, text = (scores[column].to_numpy(dtype=np.int64) for column in ("image_rank", "text_rank"))
        return recall.recall(image, text)

    def units(self, scores: pd.DataFrame, workspace: Workspace) -> NDArray[np.int64]:
        """Families: what the splits keep together."""
        return components_of(scores["id"], workspace)


class CaptionJudge:
    """Columns: id, split, written, references."""

    title, examples_name, key, spent = "Captions", "images", "id", "items_seen"

    def figures(self, scores: pd.DataFrame) -> tuple[Figure, ...]:
        """CIDEr-D, BLEU-4 and ROUGE-L."""
        return captions.FIGURES

    def measure(self, scores: pd.DataFrame) -> Measure:
        """What was written beside the references."""
        written = [captions.words_of(text) for text in scores["written"]]
        return captions.captions(written, [[*map(captions.words_of, texts)] for texts in scores["references"]])

    def units(self, scores: pd.DataFrame, workspace: Workspace) -> NDArray[np.int64]:
        """Families: what the splits keep together."""
        return components_of(scores["id"], workspace)


def judge_of(task: OtherTask) -> Judge:
    """The judge of a task."""
    match task:
        case "retrieval":
            return RetrievalJudge()
        case "caption":
            return CaptionJudge()
        case _:
            assert_never(task)


def components_of(items: pd.Series, workspace: Workspace) -> NDArray[np.int64]:
    """The component (n,) of each of these items: what the splits keep together. `InputError` where one is unknown."""
    path = workspace.pairs / "items.parquet"
    table = pd.read_parquet(path, columns=["id", "component"]).set_index("id")["component"]
    found = items.map(table)
    if found.isna().any():
        raise InputError(
            f"{path}: lacks item {items[found.isna()].iloc[0]}, which was scored; run `mlim finetune` again"
        )
    return found.to_numpy(dtype=np.int64)

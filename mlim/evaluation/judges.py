"""How the answers of each fine-tuning task besides matching are judged: what its scores.parquet holds, and its figures.

Matching has tables of its own (`mlim ablate`); its PR-AUC is in pr_auc.py and resampling.py.
"""

from typing import Final, Protocol, assert_never

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.errors import DataError, InputError
from mlim.evaluation.detections import detection_figures, detection_measure
from mlim.evaluation.metrics import accuracy, captions, recall
from mlim.evaluation.metrics.measure import Figure, Measure, Together, WeightedMeans
from mlim.recipe.tasks import OtherTask
from mlim.workspace import Workspace

FULL: Final = 1.0  # the score of an answer that everybody gave


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

    @property
    def blind(self) -> bool:
        """Whether variants that see one modality alone say what can be known without the other."""

    def figures(self, scores: pd.DataFrame) -> tuple[Figure, ...]:
        """The figures that `measure` gives for the examples of `scores`; the first one stands for the task."""

    def measure(self, scores: pd.DataFrame) -> Measure:
        """What one training answered, from its rows of one split in the order of their keys."""

    def units(self, scores: pd.DataFrame, workspace: Workspace) -> NDArray[np.int64]:
        """The unit (n,) that each example comes and goes with in resamples."""


class RetrievalJudge:
    """Columns: id, split, image_rank, text_rank, images, texts."""

    title, examples_name, key, spent = "Retrieval", "items", "id", "items_seen"
    blind = False

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
    blind = False

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


class AnswerJudge:
    """Columns: question_id, id, split, kind, template, entailed, given, score."""

    title, examples_name, key, spent = "Answers", "questions", "question_id", "questions_seen"
    blind = True

    def figures(self, scores: pd.DataFrame) -> tuple[Figure, ...]:
        """Accuracy over all questions and by kind; consistency where questions follow from others."""
        consistency = (accuracy.CONSISTENCY,) if _entails(scores) else ()
        return (*accuracy.kinds_in(scores["kind"].tolist()), *consistency)

    def measure(self, scores: pd.DataFrame) -> Measure:
        """Scores of the given answers; of those that follow from a right one, the share that is right.

        `DataError` when two questions have one name: what follows from which is then not known.
        """
        by_kind = accuracy.by_kind(scores["score"].to_numpy(dtype=np.float64), scores["kind"].tolist())
        if not _entails(scores):
            return by_kind
        require_unique(scores, self.key, "answers")
        right = dict(zip(scores["question_id"], scores["score"] >= FULL, strict=True))
        entailed = dict(zip(scores["question_id"], scores["entailed"], strict=True))
        return Together(by_kind, accuracy.entailed_consistency(right, entailed))

    def units(self, scores: pd.DataFrame, workspace: Workspace) -> NDArray[np.int64]:
        """Families: what the splits keep together; of scenes these are single pictures."""
        return components_of(scores["id"], workspace)


def require_unique(scores: pd.DataFrame, key: str, where: object) -> None:
    """`DataError`, about `where` the scores are from, when two examples have one name."""
    repeated = scores.loc[scores[key].duplicated(), key]
    if len(repeated):
        raise DataError(
            f"{where}: {key} `{repeated.iloc[0]}` is there more than once, but examples are compared by it; run `mlim "
            "annotate` on files that have it once, then `mlim finetune` again"
        )


def _entails(scores: pd.DataFrame) -> bool:
    """Whether any question follows from another one."""
    return any(len(names) for names in scores["entailed"])


class StatementJudge:
    """Columns: statement_id, left, right, split, set, label, given, score."""

    title, examples_name, key, spent = "Statements", "statements", "statement_id", "statements_seen"
    blind = True

    def figures(self, scores: pd.DataFrame) -> tuple[Figure, ...]:
        """Accuracy, and the share of sets that are right as a whole."""
        return (accuracy.ALL, accuracy.CONSISTENCY)

    def measure(self, scores: pd.DataFrame) -> Measure:
        """Which statements are judged right."""
        right = scores["score"].to_numpy(dtype=np.float64)
        return Together(
            WeightedMeans(right[None]), accuracy.set_consistency((right >= FULL).tolist(), scores["set"].tolist())
        )

    def units(self, scores: pd.DataFrame, workspace: Workspace) -> NDArray[np.int64]:
        """Sets: one sentence about several pairs of pictures."""
        return pd.factorize(scores["set"])[0].astype(np.int64)


class DetectionJudge:
    """Columns: id, split, truth, found, lists of rows (mlim/evaluation/detections.py)."""

    title, examples_name, key, spent = "Detection", "images", "id", "items_seen"
    blind = False

    def figures(self, scores: pd.DataFrame) -> tuple[Figure, ...]:
        """AP, AP50, AP75, AP by size, attributes of hits, numbers of objects."""
        return detection_figures(scores)

    def measure(self, scores: pd.DataFrame) -> Measure:
        """What was found beside what is there."""
        return detection_measure(scores)

    def units(self, scores: pd.DataFrame, workspace: Workspace) -> NDArray[np.int64]:
        """Families: what the splits keep together; of scenes these are single pictures."""
        return components_of(scores["id"], workspace)


def judge_of(task: OtherTask) -> Judge:
    """The judge of a task."""
    match task:
        case "retrieval":
            return RetrievalJudge()
        case "caption":
            return CaptionJudge()
        case "answer":
            return AnswerJudge()
        case "statement":
            return StatementJudge()
        case "detect":
            return DetectionJudge()
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

"""Fine-tuning to answer texts about pictures, whatever they ask: what `answer` and `statement` have in common."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

import pandas as pd
import pyarrow.compute as pc
import torch
from torch import Tensor

from mlim.annotations.tables import QUESTIONS, STATEMENTS, has_rows, read_table, table_file
from mlim.console import Terminal
from mlim.data.asked import Asked, AskedCollator
from mlim.data.loader import chunks, fetch_ahead
from mlim.data.transfer import to_device
from mlim.errors import DataError, InputError
from mlim.evaluation.attended import attended_words
from mlim.evaluation.dependence import dependence
from mlim.models.item_classifier import ItemClassifier
from mlim.models.system import Shown, ShowsAttention
from mlim.recipe import TuningConfig
from mlim.recipe.tasks import TOTAL
from mlim.steps.annotated import hashed
from mlim.steps.trained import TEST, TRAIN, VALIDATION, TrainingData
from mlim.steps.tuning import TuningInputs
from mlim.tasks.asked import METRIC, AnswerLoss, AskedObjective
from mlim.training.held_out import choose_items
from mlim.training.protocols import TrainResult, Validation
from mlim.workspace import Workspace

LOOKED_AT: Final = 4  # examples that are right, and as many that are wrong
NAMED_BY: Final = {QUESTIONS: "question_id", STATEMENTS: "statement_id"}


@dataclass(frozen=True)
class AskedExamples:
    """What is asked for one task, by split; `columns` is what its scores.parquet says of the examples of a split."""

    task: Literal["answer", "statement"]
    name: str  # how people call several examples
    pictures: int
    classes: Sequence[str]
    loss: AnswerLoss
    asked: Mapping[str, Sequence[Asked]]
    columns: Callable[[str], pd.DataFrame]


class AskedTuning:
    """The answering of one variant: its network, what it is asked, and how it is judged."""

    def __init__(self, given: TuningInputs, config: TuningConfig, examples: AskedExamples, validated: int) -> None:
        self.config, self._given, self._of = config, given, examples
        self.examples_name, self._modality = examples.name, given.variant.modality
        self.planned = ItemClassifier.planned(given.start, examples.pictures, examples.classes, given.seed)
        self._model, recipe = self.planned.model, given.recipe
        self.collate = AskedCollator(given.pictures, given.tokenizer, recipe.text.limit, len(examples.classes))
        chosen = {*choose_items([one.name for one in examples.asked[VALIDATION]], validated)}
        self.examples = [one for one in examples.asked[TRAIN] if one.right]  # of which some answer can be given
        self._chosen = [one for one in examples.asked[VALIDATION] if one.name in chosen]

    def objective(self) -> AskedObjective:
        """From a batch to its loss."""
        return AskedObjective(self._model, self._of.task, self._of.loss, self._modality)

    def finish(self) -> None:
        """Nothing is left over from training."""

    def validate(self, step: int) -> Validation:
        """Loss and accuracy on examples of the validation split, shown as the variant is judged."""
        total, right = 0.0, 0.0
        for logits, scores in self._judged(self._chosen):
            total += float(self._of.loss(logits, scores).total)
            right += float(scores.gather(1, logits.argmax(dim=1, keepdim=True)).sum())
        loss = total / len(self._chosen)  # which counts every text
        means = {self._of.task: loss, TOTAL: loss}
        return Validation({self._modality: means}, means, right / len(self._chosen), METRIC)

    @torch.no_grad()
    def _judged(self, asked: Sequence[Asked]) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and scores (examples, classes) of a batch after the other, on the model's device."""
        device = next(self._model.parameters()).device
        batches = fetch_ahead(self.collate, chunks(asked, self._given.recipe.evaluate.batch_size))
        for batch in batches:
            shown = to_device(batch, device).with_floats()
            yield self._model(shown, self._modality).float(), shown.scores

    def _answers(self, asked: Sequence[Asked]) -> list[int]:
        """The class that is chosen for each text: of all texts of a split the logits would be gigabytes."""
        return [number for logits, _ in self._judged(asked) for number in logits.argmax(dim=1).tolist()]

    def score(self, result: TrainResult, terminal: Terminal, title: str) -> pd.DataFrame:
        """The answers to both splits: what is known of each example, split, given, score."""
        parts = []
        with result.usable(), terminal.progress(title, 2) as bar:
            for split in (VALIDATION, TEST):
                asked = self._of.asked[split]
                chosen = self._answers(asked)
                given = [self._of.classes[number] for number in chosen]
                score = [one.right.get(number, 0.0) for one, number in zip(asked, chosen, strict=True)]
                found = self._of.columns(split).assign(split=split, given=given, score=score)
                if split == TEST and self._shows_pictures:
                    found["depends"] = self._dependence(chosen, score)
                if split == TEST and self._modality == "both" and self._of.pictures == 1:
                    found = found.assign(**self._attention(score))
                parts.append(found)
                bar.advance(1, f"{len(asked)} {split} {self.examples_name}")
        return pd.concat(parts, ignore_index=True)

    @property
    def _shows_pictures(self) -> bool:
        """Whether a text is about one picture whose pixels are read."""
        return self._modality == "both" and self._of.pictures == 1 and self._given.regions is None

    def _dependence(self, chosen: Sequence[int], scores: Sequence[float]) -> list[list[float]]:
        """What the given answers to a few examples of the test split depend on; of the others nothing."""
        asked, device = self._of.asked[TEST], next(self._model.parameters()).device
        found: list[list[float]] = [[] for _ in asked]
        for place in looked_at(scores):
            batch = to_device(self.collate([asked[place]]), device).with_floats()
            found[place] = dependence(partial(self._model.chances, batch, chosen[place]), batch.pixels)
        return found

    @torch.no_grad()
    def _attention(self, scores: Sequence[float]) -> dict[str, list[Any]]:
        """The words of a few examples of the test split with their attention to the picture; of the others nothing.

        No columns for a system that tells none.
        """
        system, asked, device = self._model.system, self._of.asked[TEST], next(self._model.parameters()).device
        if not isinstance(system, ShowsAttention):
            return {}
        words: list[list[str]] = [[] for _ in asked]
        cells: list[list[list[float]]] = [[] for _ in asked]
        for place in looked_at(scores):
            batch = to_device(self.collate([asked[place]]), device).with_floats()
            found = system.attended(Shown(batch.input_ids, batch.text_attention, batch.pixels))
            if found is not None:
                told = attended_words(self._given.tokenizer.tokens(batch.input_ids[0].tolist()), found)
                words[place], cells[place] = [one.word for one in told], [one.cells for one in told]
        return {"words": words, "attends": cells}

    def summary(self, result: TrainResult) -> Mapping[str, Any]:
        """Examples, and the accuracy by which the best step was chosen; how many texts of the test split were cut."""
        texts = [one.text for one in self._of.asked[TEST]]
        lengths = [len(ids) for ids in self._given.tokenizer.encode_all(texts)]
        return {
            "task": self._of.task,
            "classes": len(self._of.classes),
            f"training_{self.examples_name}": len(self.examples),
            f"{self.examples_name}_seen": result.samples,
            "cut_texts": sum(length > self.collate.max_tokens for length in lengths),
            "best_step": result.best_step,
            "final": {METRIC.name: result.best_value},
        }


def looked_at(scores: Sequence[float]) -> list[int]:
    """Places of a few examples that are right, and of as many that are wrong."""
    return [*_spread(scores, right=True), *_spread(scores, right=False)]


def _spread(scores: Sequence[float], right: bool) -> list[int]:
    """Places of a few examples that are right, or wrong, at even distances."""
    places = [place for place, score in enumerate(scores) if (score > 0) == right]
    return [places[round(at * (len(places) - 1) / (LOOKED_AT - 1))] for at in range(LOOKED_AT)] if places else []


def asked_data(data: TrainingData, workspace: Workspace, table: str, *beside: str) -> TrainingData:
    """The data, with a table of the annotations and files `beside` it among what is hashed.

    `InputError` when nothing is in the table, `DataError` when a split has two rows of one name, as which they could
    not be judged.
    """
    if not has_rows(workspace.annotations, table):
        raise InputError(
            f"{workspace.annotations}: has no {table}; run `mlim annotate` on a catalog whose section `annotations` "
            f"has {table}"
        )
    _refuse_repeated(workspace, table)
    files = [table_file(workspace.annotations, table), *(workspace.annotations / name for name in beside)]
    return replace(data, hashes={**data.hashes, **hashed(files, workspace)})


def _refuse_repeated(workspace: Workspace, table: str) -> None:
    key = NAMED_BY[table]
    counts = read_table(workspace.annotations, table).group_by(["split", key]).aggregate([([], "count_all")])
    for row in counts.filter(pc.greater(counts["count_all"], 1)).slice(length=1).to_pylist():
        raise DataError(
            f"{table_file(workspace.annotations, table)}: {key} `{row[key]}` is there {row['count_all']} times in the "
            f"{row['split']} split, but answers are judged by it; give every row in the annotated files a {key} of its "
            "own and run `mlim annotate` again"
        )


def require_all(asked: Mapping[str, Sequence[Asked]], name: str, workspace: Workspace) -> None:
    """`InputError` when a split has nothing that could be learned or judged."""
    for split, known in asked.items():
        if not any(one.right for one in known):
            raise InputError(
                f"{workspace.annotations}: the {split} split has no {name} with an answer that can be given; annotate "
                "more pictures and run `mlim annotate` again"
            )

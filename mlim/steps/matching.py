"""Fine-tuning to classify pairs as match or mismatch (paper sections 3.3 and 4.2.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from mlim.console import Terminal
from mlim.data.collate import Pair, PairCollator
from mlim.errors import InputError
from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.scores import MODALITIES
from mlim.evaluation.scoring import pair_logits, score_pairs, scores_of
from mlim.models.systems import plan_matcher
from mlim.recipe import Modality
from mlim.steps.trained import TEST, TRAIN, VALIDATION, TrainingData, read_deciding
from mlim.steps.tuning import TuningInputs
from mlim.tasks.match import MATCH, METRIC, MatchObjective
from mlim.training.protocols import TrainResult, Validation
from mlim.workspace import Workspace


class MatchTuning:
    """The matching of one variant: its network, its pairs, and how it is judged."""

    examples_name = "pairs"

    def __init__(self, given: TuningInputs) -> None:
        self._given, self._data = given, given.data
        self.config = given.recipe.finetuning_of(given.variant)
        self._values = read_deciding(given.data, given.workspace) if self.config.attribute_weight else None
        classes = () if self._values is None else self._values.counts
        self.planned = plan_matcher(given.start, self.config, given.seed, classes)
        self._model = self.planned.model
        self.collate = PairCollator(*given.collating())

    @property
    def examples(self) -> Sequence[Pair]:
        """The training pairs."""
        return self._data.pairs[TRAIN]

    def objective(self) -> MatchObjective:
        """From a batch of pairs to its losses."""
        given = self._given
        return MatchObjective(self._model, self.config, given.variant, given.seed, self._values)

    def finish(self) -> None:
        """Drop the heads that predict attributes."""
        self._model.forget_attributes()

    def validate(self, step: int) -> Validation:
        """Loss and PR-AUC on the validation pairs, shown as the variant is judged."""
        pairs, modality = self._data.pairs[VALIDATION], self._given.variant.modality
        logits = pair_logits(self._model, pairs, self.collate, modality, self._batch_size)
        labels = np.array([pair.label for pair in pairs], dtype=np.int64)
        loss = functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels).double())
        means = {MATCH: loss.item(), "total": loss.item()}
        return Validation({modality: means}, means, average_precision(labels, scores_of(logits)), METRIC)

    def score(self, result: TrainResult, terminal: Terminal, title: str) -> pd.DataFrame:
        """Validation and test pairs, scored by what the variant is judged by: all three ways, or its one modality."""
        own = self._given.variant.modality
        modalities: tuple[Modality, ...] = MODALITIES if own == "both" else (own,)
        work = [(split, modality) for split in (VALIDATION, TEST) for modality in modalities]
        parts = []
        with result.usable(), terminal.progress(title, len(work)) as bar:
            for split, modality in work:
                parts.append(self._score(split, modality))
                bar.advance(1, f"{split} pairs, {modality}")
        return pd.concat(parts, ignore_index=True)

    def _score(self, split: str, modality: Modality) -> pd.DataFrame:
        pairs = self._data.pairs.get(split, [])
        scores = score_pairs(self._model, pairs, self.collate, modality, self._batch_size)
        frame = pd.DataFrame(pairs, columns=list(Pair._fields)).astype({"label": "int8"})
        return frame.assign(split=split, modality=modality, score=scores)

    @property
    def _batch_size(self) -> int:
        return self._given.recipe.evaluate.batch_size

    def summary(self, result: TrainResult) -> Mapping[str, Any]:
        """Pairs, and the PR-AUC by which the best step was chosen."""
        return {
            "training_pairs": len(self.examples),
            "pairs_seen": result.samples,
            "validation_pr_auc": result.best_value,
            "best_step": result.best_step,
            "final": {MATCH: result.validation.get(MATCH)},
        }


def check_pairs(data: TrainingData, workspace: Workspace) -> None:
    """`InputError` when a split that matching learns from, or chooses the best step by, lacks a label."""
    if not data.pairs:
        raise InputError(
            f"{workspace.pairs / 'pairs.parquet'}: has no pairs (`pairs: none` in the catalog), so nothing teaches "
            "to match; name a variant of another task"
        )
    for split in (TRAIN, VALIDATION):
        labels = {pair.label for pair in data.pairs.get(split, [])}
        if labels != {0, 1}:
            raise InputError(
                f"{workspace.pairs / 'pairs.parquet'}: the {split} split needs pairs of both labels; run `mlim pairs` "
                "again with more items or another rule"
            )

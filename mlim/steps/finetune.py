"""`mlim finetune`: closely matching or not, on pairs of items, with modality dropout (paper sections 3.3 and 4.2.1)."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from mlim.console import Terminal
from mlim.data.collate import Pair, PairCollator
from mlim.data.tokenize import TextTokenizer
from mlim.errors import InputError
from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.scores import MODALITIES, SCORES_FILE
from mlim.evaluation.scoring import pair_logits, score_pairs, scores_of
from mlim.files import sha256_of
from mlim.models.config import TEXT_SPECIALS
from mlim.models.hub import build_mlim
from mlim.models.matcher import Matcher
from mlim.models.mlim import Mlim
from mlim.models.storage import WEIGHTS_FILE
from mlim.objectives import MATCH, MatchObjective
from mlim.recipe import Modality, Recipe, Row
from mlim.steps.trained import (
    HISTORY_FILE,
    MODEL_FOLDER,
    TEST,
    TRACE_FILE,
    TRAIN,
    VALIDATION,
    Resume,
    TrainingData,
    forget_watched,
    keep_watched,
    make_tokenizer,
    model_sections,
    named,
    open_checkpoints,
    open_training_data,
    prepare_collating,
    result_folder,
    trained_model,
    training_batches,
    training_place,
    training_size,
    training_summary,
    write_training,
)
from mlim.tracking import stage_run
from mlim.training.checkpoint import Checkpoints
from mlim.training.contracts import MetricSink, TrainResult, Unheard, Validation
from mlim.training.device import Place
from mlim.training.loop import Trainer
from mlim.versions import lineage
from mlim.workspace import Workspace, cell

STAGE: Final = "finetune"


def finetune(
    recipe: Recipe, workspace: Workspace, terminal: Terminal, row: str, seed: int, resume: Resume = "auto"
) -> dict[str, Any]:
    """Fine-tune one row of the tables, score the validation and test pairs, write workspace.finetuned(row, seed).

    `resume="auto"` continues an interrupted training of the same recipe, data and start; `never` starts anew.
    `InputError` for missing inputs, `Interrupted` when stopped by a signal, `MlimError` when training fails. Of several
    processes that train together (`torchrun`) the first one writes and returns the summary; the others return nothing.
    """
    folder, out = workspace.checkpoints(STAGE, row, seed), workspace.finetuned(row, seed)
    with training_place(recipe, folder) as place:
        with place.ranks.one_first():
            job = _Job(recipe, workspace, row, seed, place)
            checkpoints = open_checkpoints(folder, recipe.finetune, job.decisive, resume, terminal)
        if not place.ranks.leads:
            job.train(checkpoints, Unheard(), Terminal(quiet=True))
            return {}
        forget_watched(checkpoints, workspace.watched(STAGE, row, seed))
        terminal.say(f"{row}, seed {seed}: {job.size}")
        with stage_run(recipe, workspace, STAGE, cell(row, seed), lineage(workspace)) as run:
            result = job.train(checkpoints, run, terminal)
            job.model = trained_model(job.model, result, place)
            scores = job.score(terminal)
            summary = {**job.summary(result), "run_id": run.id}
            with result_folder(out) as made:
                job.model.save_pretrained(made / MODEL_FOLDER)
                scores.to_parquet(made / SCORES_FILE, index=False)
                write_training(made, job.tokenizer, result, summary)
            run.artifact(out / HISTORY_FILE)
            keep_watched(run, workspace.watched(STAGE, row, seed))
        checkpoints.clear()
    return summary


class _Job:
    """One fine-tuning, assembled."""

    def __init__(self, recipe: Recipe, workspace: Workspace, name: str, seed: int, place: Place) -> None:
        self._recipe, self._name, self._seed, self._place = recipe, name, seed, place
        self._watch = workspace.watched(STAGE, name, seed)
        self._row: Row = named("rows", recipe.rows, name)
        self._start = _start_folder(recipe, workspace, self._row, seed)
        self._data = open_training_data(recipe, workspace)
        _check_pairs(self._data, workspace)
        mlim, self.tokenizer = _load_start(recipe, self._start, self._data, seed)
        self.model = Matcher.from_mlim(mlim, recipe.finetune.head_dropout, seed)
        self._collate = PairCollator(*prepare_collating(recipe, self._data, self.tokenizer, workspace))

    @property
    def size(self) -> str:
        """What is trained on what, in a few words."""
        return training_size(self.model, f"{len(self._data.pairs[TRAIN])} pairs")

    @property
    def decisive(self) -> dict[str, Any]:
        """What makes a continued training the same training."""
        return {
            **model_sections(self._recipe),
            "cell": [STAGE, self._name, self._seed],
            "row": self._row.model_dump(mode="json", include={"mdo", "modality"}),
            "start": None if self._start is None else sha256_of(self._start / WEIGHTS_FILE),
            "data": dict(self._data.hashes),
        }

    def train(self, checkpoints: Checkpoints, sink: MetricSink, terminal: Terminal) -> TrainResult:
        config = self._recipe.finetune
        trainer = Trainer(
            MatchObjective(self.model, self._recipe, self._row, self._seed),
            training_batches(self._data.pairs[TRAIN], self._collate, config, self._recipe, self._seed, self._place),
            config,
            self._seed,
            self._validate,
            checkpoints,
            sink,
            self._place,
            self._watch / TRACE_FILE if self._place.ranks.leads else None,
        )
        return trainer.run(terminal, f"finetune {self._name}")

    def _validate(self, step: int) -> Validation:
        """Loss and PR-AUC on the validation pairs, shown as the row is judged."""
        pairs, modality = self._data.pairs[VALIDATION], self._row.modality
        logits = pair_logits(self.model, pairs, self._collate, modality, self._recipe.evaluate.batch_size)
        labels = np.array([pair.label for pair in pairs], dtype=np.int64)
        loss = functional.binary_cross_entropy_with_logits(torch.from_numpy(logits), torch.from_numpy(labels).double())
        means = {MATCH: loss.item(), "total": loss.item()}
        return Validation({modality: means}, means, average_precision(labels, scores_of(logits)))

    def score(self, terminal: Terminal) -> pd.DataFrame:
        """Validation and test pairs, scored by what the row is judged by: all three ways, or its one modality."""
        modalities: tuple[Modality, ...] = MODALITIES if self._row.modality == "both" else (self._row.modality,)
        work = [(split, modality) for split in (VALIDATION, TEST) for modality in modalities]
        parts = []
        with terminal.progress(f"score {self._name}", len(work)) as bar:
            for split, modality in work:
                parts.append(self._score(split, modality))
                bar.advance(1, f"{split} pairs, {modality}")
        return pd.concat(parts, ignore_index=True)

    def _score(self, split: str, modality: Modality) -> pd.DataFrame:
        pairs = self._data.pairs.get(split, [])
        scores = score_pairs(self.model, pairs, self._collate, modality, self._recipe.evaluate.batch_size)
        frame = pd.DataFrame(pairs, columns=list(Pair._fields)).astype({"label": "int8"})
        return frame.assign(split=split, modality=modality, score=scores)

    def summary(self, result: TrainResult) -> dict[str, Any]:
        return {
            "row": self._name,
            "seed": self._seed,
            "settings": self._recipe.training_key(STAGE, self._name),
            "label": self._row.label,
            "pretraining": self._row.pretraining,
            "mdo": self._row.mdo,
            "modality": self._row.modality,
            "pairs_seen": result.samples,
            "validation_pr_auc": result.best_value,
            "best_step": result.best_step,
            "final": {MATCH: result.validation.get(MATCH)},
            **training_summary(result, self.model, self._place),
        }


def _start_folder(recipe: Recipe, workspace: Workspace, row: Row, seed: int) -> Path | None:
    """The pre-trained model that a row starts from; None for a row without pre-training."""
    if row.pretraining is None:
        return None
    folder = workspace.pretrained(row.pretraining, seed) / MODEL_FOLDER
    if not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder} is missing; run `mlim pretrain {row.pretraining} --seed {seed}` first")
    return folder


def _load_start(recipe: Recipe, start: Path | None, data: TrainingData, seed: int) -> tuple[Mlim, TextTokenizer]:
    if start is None:
        tokenizer = make_tokenizer(recipe, data)
        return build_mlim(recipe, tokenizer, seed), tokenizer
    mlim = Mlim.from_pretrained(start)
    longest = mlim.config.text_positions - TEXT_SPECIALS
    if mlim.config.image_size != recipe.image.size or longest < recipe.text.max_tokens:
        raise InputError(
            f"{start} was pre-trained for image.size={mlim.config.image_size} and text.max_tokens={longest}, but the "
            f"recipe says {recipe.image.size} and {recipe.text.max_tokens}; run `mlim pretrain` again with this recipe"
        )
    return mlim, TextTokenizer.from_folder(start)


def _check_pairs(data: TrainingData, workspace: Workspace) -> None:
    for split in (TRAIN, VALIDATION):
        labels = {pair.label for pair in data.pairs.get(split, [])}
        if labels != {0, 1}:
            raise InputError(
                f"{workspace.pairs / 'pairs.parquet'}: the {split} split needs pairs of both labels; run `mlim pairs` "
                "again with more items or another rule"
            )

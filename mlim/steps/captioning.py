"""Fine-tuning to write captions, or judging those that pre-training has learned to write."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd
import torch

from mlim.console import Terminal
from mlim.data.annotated import AnnotationTables
from mlim.data.collate import ItemCollator
from mlim.data.loader import chunks
from mlim.data.objects import Beside
from mlim.data.transfer import to_device
from mlim.evaluation.metrics.captions import captions, words_of
from mlim.evaluation.metrics.measure import plain_figures
from mlim.models.config import TEXT_SPECIALS
from mlim.models.system import Shown
from mlim.models.write import Writing
from mlim.models.writing import Writes, write_texts
from mlim.recipe import CaptioningConfig
from mlim.recipe.caption import CaptionTask
from mlim.recipe.pretrain import MaskingConfig
from mlim.steps.annotated import hashes_of
from mlim.steps.retrieval import check_items
from mlim.steps.trained import TEST, TRAIN, VALIDATION, TrainingData
from mlim.steps.tuning import TuningInputs
from mlim.tasks.pretrain.caption import Captioning
from mlim.tasks.pretrain.objective import PretrainObjective
from mlim.tasks.pretrain.passes import Passes
from mlim.tasks.protocols import Metric
from mlim.training.held_out import VALIDATION_SEED, HeldOutLosses, choose_items
from mlim.training.protocols import TrainResult, Validation
from mlim.workspace import Workspace

METRIC: Final = Metric("cider")


class CaptionTuning:
    """The captioning of one variant: its system, the images, and what is known of them."""

    examples_name = "images"

    def __init__(self, given: TuningInputs) -> None:
        self._given, self.planned, self._system = given, given.start, given.start.model
        config = given.recipe.tuning_of(given.variant)
        if not isinstance(config, CaptioningConfig) or not isinstance(self._system, Writes):  # refused with the recipe
            raise TypeError(f"system {self._system.kind} with {type(config).__name__} writes nothing")
        self.config, self._writer, self._known = config, self._system, _captions_in(given.workspace)
        self.collate = ItemCollator(*given.collating(), self._known)
        self._chosen = self._images(VALIDATION, config.validation_images)

    @property
    def examples(self) -> Sequence[str]:
        """The training items."""
        return self._given.data.items[TRAIN]

    def objective(self) -> PretrainObjective:
        """From a batch of items to its loss: that of pre-training, with smoothed labels."""
        return self._objective(self._given.seed, self.config.smoothing)

    def _objective(self, seed: int, smoothing: float) -> PretrainObjective:
        places = self._given.recipe.text.limit + TEXT_SPECIALS
        passes = Passes(MaskingConfig(), None, 0.0, places, self._system.patches, seed)
        task = Captioning(self._system, CaptionTask(smoothing=smoothing))
        return PretrainObjective(self._system, [task], {task.name: 1.0}, passes)

    def finish(self) -> None:
        """Nothing is left over from training."""

    def validate(self, step: int) -> Validation:
        """Loss without smoothing, and CIDEr-D of what greedy search writes, on images of the validation split."""
        device = next(self._system.parameters()).device
        objective = self._objective(VALIDATION_SEED, 0.0)
        losses = HeldOutLosses(objective, self.collate, self._chosen, self.config.batch_size, device)(step)
        written = self._write(self._chosen, beam=1, length_penalty=0.0)
        references = [list(map(words_of, self._references(item))) for item in self._chosen]
        found = plain_figures(captions(list(map(words_of, written)), references), len(written))
        return Validation(losses.by_mode, losses.overall, float(found[0]), METRIC)

    @torch.no_grad()
    def _write(self, items: Sequence[str], beam: int, length_penalty: float) -> list[str]:
        """The captions of these items' pictures."""
        tokenizer, device = self._given.tokenizer, next(self._system.parameters()).device
        most, forbidden = self._given.recipe.text.limit + 1, (tokenizer.pad, tokenizer.cls, tokenizer.mask)
        settings = Writing(tokenizer.cls, tokenizer.sep, most, beam, length_penalty, forbidden)
        written: list[str] = []
        for ids in chunks(items, self._given.recipe.evaluate.batch_size):
            batch = to_device(self.collate(ids), device).with_floats()
            shown = Shown(batch.input_ids, batch.text_attention, batch.pixels)
            written += [tokenizer.text(tokens) for tokens in write_texts(self._writer, shown, settings)]
        return written

    def score(self, result: TrainResult, terminal: Terminal, title: str) -> pd.DataFrame:
        """Captions of both splits: id, split, written, references."""
        parts, search = [], (self.config.beam, self.config.length_penalty)
        with result.usable(), terminal.progress(title, 2) as bar:
            for split in (VALIDATION, TEST):
                ids = self._images(split, self.config.images)
                columns = {"written": self._write(ids, *search), "references": [*map(self._references, ids)]}
                parts.append(pd.DataFrame({"id": ids, "split": split, **columns}))
                bar.advance(1, f"{len(ids)} {split} images")
        return pd.concat(parts, ignore_index=True)

    def _images(self, split: str, most: int | None) -> list[str]:
        """The same images of a split for every variant."""
        items = self._given.data.items.get(split, [])
        return choose_items(items, len(items) if most is None else most)

    def _references(self, item: str) -> list[str]:
        """What people wrote: captions, or the item's text where its picture has none."""
        known = [] if self._known is None else [*self._known.source.captions(item)]
        return known or [self._given.data.store.text(item)]

    def summary(self, result: TrainResult) -> Mapping[str, Any]:
        """Images, and the CIDEr-D by which the best step was chosen."""
        return {
            "task": "caption",
            "training_items": len(self.examples),
            "items_seen": result.samples,
            "best_step": result.best_step,
            "final": {METRIC.name: result.best_value},
        }


def caption_data(data: TrainingData, workspace: Workspace) -> TrainingData:
    """The data, with the captions among what is hashed. `InputError` when a split that is judged is empty."""
    check_items(data, workspace)
    return replace(data, hashes={**data.hashes, **hashes_of(_captions_in(workspace), workspace)})


def _captions_in(workspace: Workspace) -> Beside | None:
    tables = AnnotationTables(workspace.annotations)
    return Beside(tables, objects=False, captions=True) if tables.has_captions else None

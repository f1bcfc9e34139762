"""Fine-tuning to find the objects in pictures, or judging what pre-training has learned to find."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd
import pyarrow.compute as pc
import torch

from mlim.annotations.tables import REGIONS, read_table
from mlim.console import Terminal
from mlim.data.annotated import AnnotationTables
from mlim.data.batches import ItemBatch
from mlim.data.collate import ItemCollator
from mlim.data.loader import chunks
from mlim.data.objects import Beside
from mlim.data.transfer import to_device
from mlim.errors import InputError
from mlim.evaluation.detected import found_rows
from mlim.evaluation.detections import detection_measure, truth_row
from mlim.evaluation.metrics.measure import plain_figures
from mlim.models.config import TEXT_SPECIALS
from mlim.models.detection import Detected, Detects, plan_detector
from mlim.models.system import Shown
from mlim.recipe import DetectingConfig
from mlim.recipe.pretrain import MaskingConfig
from mlim.steps.annotated import hashes_of
from mlim.steps.trained import TEST, TRAIN, VALIDATION, TrainingData, prepare_collating
from mlim.steps.tuning import TuningInputs
from mlim.tasks.pretrain.detect import Detect
from mlim.tasks.pretrain.objective import PretrainObjective
from mlim.tasks.pretrain.passes import Passes
from mlim.tasks.protocols import Metric
from mlim.training.held_out import VALIDATION_SEED, HeldOutLosses, choose_items
from mlim.training.protocols import TrainResult, Validation
from mlim.workspace import Workspace

METRIC: Final = Metric("ap")
ALWAYS: Final = 1.0  # neighbours of a batch exchange their pictures, and so their texts


class DetectTuning:
    """The detection of one variant: its system, the annotated images, and what is in them."""

    examples_name = "images"

    def __init__(self, given: TuningInputs) -> None:
        config, tables = given.recipe.tuning_of(given.variant), AnnotationTables(given.workspace.annotations)
        if not isinstance(config, DetectingConfig):
            raise TypeError(f"{type(config).__name__} is about no objects")
        self.planned = plan_detector(given.start, tables.names, given.seed)
        if given.variant.zero_shot and self.planned is not given.start:
            raise InputError(
                f"{given.workspace.annotations}: objects have other names than those that pre-training "
                f"`{given.variant.pretraining}` learned; run `mlim pretrain` again, or fine-tune"
            )
        self.config, self._given, self._system, self._names = config, given, self.planned.model, tables.names
        self._text, self._other = given.variant.modality == "both", given.variant.text_of == "other"
        collating = prepare_collating(given.recipe, given.data, given.tokenizer, given.workspace)
        self.collate = ItemCollator(*collating, Beside(tables, objects=True, captions=False))
        kinds, side = list(tables.names.attributes), given.recipe.image.size
        self._truth = {split: _truth_by_item(given.workspace, split, kinds, side) for split in (VALIDATION, TEST)}
        with_objects = _with_objects(given.workspace)
        self.examples = [item for item in given.data.items[TRAIN] if item in with_objects]
        self._chosen = choose_items(
            [item for item in self._annotated(VALIDATION) if item in with_objects], config.validation_images
        )

    def _annotated(self, split: str) -> list[str]:
        """The images of a split that are judged: those with objects or crowds."""
        return [item for item in self._given.data.items.get(split, ()) if item in self._truth[split]]

    def objective(self) -> PretrainObjective:
        """From a batch of items to its losses: those of pre-training."""
        return self._objective(self._given.seed)

    def _objective(self, seed: int) -> PretrainObjective:
        config, places = self.config.task(self._text), self._given.recipe.text.limit + TEXT_SPECIALS
        exchange = ALWAYS if self._other else 0.0
        passes = Passes(MaskingConfig(), None, exchange, places, self._system.patches, seed)
        return PretrainObjective(self._system, [Detect(self._system, config)], config.losses, passes)

    def finish(self) -> None:
        """Nothing is left over from training."""

    def validate(self, step: int) -> Validation:
        """Losses, and AP on images of the validation split."""
        device, size = next(self._system.parameters()).device, self.config.batch_size
        losses = HeldOutLosses(self._objective(VALIDATION_SEED), self.collate, self._chosen, size, device)(step)
        ap = plain_figures(detection_measure(self._found(self._chosen, VALIDATION)), len(self._chosen))[0]
        return Validation(losses.by_mode, losses.overall, float(ap), METRIC)

    @torch.no_grad()
    def _found(self, items: Sequence[str], split: str) -> pd.DataFrame:
        """What is found in the pictures of these items of a split beside what is there: id, truth, found."""
        side, truth, found = self._given.recipe.image.size, self._truth[split], list[list[dict[str, Any]]]()
        for batch in self._shown(items):
            detected = self._detect(batch)
            told = detected.attributes if self.config.attributes else []
            found += found_rows(detected._replace(attributes=told), self._names, side)
        return pd.DataFrame({"id": items, "truth": [truth[item] for item in items], "found": found})

    def _shown(self, items: Sequence[str]) -> Iterator[ItemBatch]:
        """Batches of these items on the device; with others' texts each with that of the item before it."""
        device, size = next(self._system.parameters()).device, self._given.recipe.evaluate.batch_size
        texts = [*items[-1:], *items[:-1]] if self._other else items
        for ids, told in zip(chunks(items, size), chunks(texts, size), strict=True):
            batch = self.collate(ids)
            if self._other:
                other = self.collate(told)
                batch = batch._replace(input_ids=other.input_ids, text_attention=other.text_attention)
            yield to_device(batch, device).with_floats()

    def _detect(self, batch: ItemBatch) -> Detected:
        if not isinstance(self._system, Detects):
            raise TypeError(f"system {self._system.kind} finds no objects")
        shown = Shown(batch.input_ids, batch.text_attention, batch.pixels)
        if not self._text:
            return self._system.detect(self._system.look(shown))
        fused = self._system.fuse(shown)
        if fused.patches is None:
            raise ValueError("detection needs pictures, but the batch has none")
        return self._system.detect(fused.patches, fused.text, batch.text_attention)

    def score(self, result: TrainResult, terminal: Terminal, title: str) -> pd.DataFrame:
        """Detections of both splits: id, split, truth, found."""
        parts = []
        with result.usable(), terminal.progress(title, 2) as bar:
            for split in (VALIDATION, TEST):
                known = self._annotated(split)
                items = choose_items(known, len(known) if self.config.images is None else self.config.images)
                parts.append(self._found(items, split).assign(split=split))
                bar.advance(1, f"{len(items)} {split} images")
        return pd.concat(parts, ignore_index=True)

    def summary(self, result: TrainResult) -> Mapping[str, Any]:
        """Images, whose text was read, and the AP by which the best step was chosen."""
        return {
            "task": "detect",
            "text_of": self._given.variant.text_of if self._text else None,
            "training_items": len(self.examples),
            "items_seen": result.samples,
            "best_step": result.best_step,
            "final": {METRIC.name: result.best_value},
        }


def detect_data(data: TrainingData, workspace: Workspace) -> TrainingData:
    """The data, with the objects among what is hashed. `InputError` when a split has no image with objects."""
    tables = AnnotationTables(workspace.annotations)
    if not tables.names.labels:
        raise InputError(
            f"{workspace.annotations}: no objects are annotated, which task detect learns from; run `mlim annotate` on "
            "a catalog whose section `annotations` has boxes"
        )
    for split in (TRAIN, VALIDATION, TEST):
        if not any(tables.regions(item) for item in data.items.get(split, ())):
            raise InputError(
                f"{workspace.annotations}: no image of the {split} split has objects; annotate more images and run "
                "`mlim annotate` again"
            )
    hashes = hashes_of(Beside(tables, objects=True, captions=False), workspace)
    return replace(data, hashes={**data.hashes, **hashes})


def _truth_by_item(
    workspace: Workspace, split: str, kinds: Sequence[str], side: int
) -> dict[str, list[dict[str, Any]]]:
    """The objects and crowds in each picture of `side` pixels of a split that has any."""
    found: dict[str, list[dict[str, Any]]] = {}
    for region in read_table(workspace.annotations, REGIONS, split).to_pylist():
        found.setdefault(region["id"], []).append(truth_row(region, kinds, side))
    return found


def _with_objects(workspace: Workspace) -> frozenset[str]:
    """The items whose pictures have objects; crowds are none."""
    table = read_table(workspace.annotations, REGIONS)
    return frozenset(table["id"].filter(pc.invert(table["crowd"])).unique().to_pylist())

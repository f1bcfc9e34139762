"""Fine-tuning to find the picture of a text and the text of a picture, or judging that without fine-tuning."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlim.console import Terminal
from mlim.data.collate import ItemCollator
from mlim.data.loader import chunks
from mlim.data.transfer import to_device
from mlim.errors import InputError
from mlim.evaluation.metrics.measure import plain_figures
from mlim.evaluation.metrics.recall import Searched, recall
from mlim.evaluation.retrieval import Gallery, search_gallery
from mlim.recipe import RetrievalConfig
from mlim.recipe.tasks import TOTAL
from mlim.steps.trained import TEST, TRAIN, VALIDATION, TrainingData
from mlim.steps.tuning import TuningInputs
from mlim.tasks.retrieval import METRIC, RETRIEVAL, RetrievalObjective, way_of
from mlim.training.held_out import choose_items
from mlim.training.protocols import TrainResult, Validation
from mlim.workspace import Workspace


class RetrievalTuning:
    """The retrieval of one variant: its system, the items, and the galleries that it is judged on."""

    examples_name = "items"

    def __init__(self, given: TuningInputs) -> None:
        self._data, self.planned, self._system = given.data, given.start, given.start.model
        config = given.recipe.tuning_of(given.variant)
        by = config.way(given.recipe.system_of(given.variant).offers) if isinstance(config, RetrievalConfig) else None
        if not isinstance(config, RetrievalConfig) or by is None:  # refused with the recipe
            raise TypeError(f"system {self._system.kind} with {type(config).__name__} retrieves nothing")
        self.config, self._by, self._batch_size = config, by, given.recipe.evaluate.batch_size
        self.collate = ItemCollator(*given.collating())
        self._chosen = self._gallery(VALIDATION, config.validation_gallery)

    @property
    def examples(self) -> Sequence[str]:
        """The training items."""
        return self._data.items[TRAIN]

    def objective(self) -> RetrievalObjective:
        """From a batch of items to its loss."""
        return RetrievalObjective(self._system, way_of(self._by, self._system, self.config.negatives))

    def finish(self) -> None:
        """Nothing is left over from training."""

    def validate(self, step: int) -> Validation:
        """Loss and recall on a gallery of the validation split."""
        image, text = search_gallery(self._system, self._by, self._chosen, self.collate, self._batch_size)
        found = plain_figures(recall(image.ranks, text.ranks), len(self._chosen.ids))
        loss = self._loss()
        means = {RETRIEVAL: loss, TOTAL: loss}
        return Validation({"both": means}, means, float(found[0]), METRIC)

    def _loss(self) -> float:
        """The mean loss over the gallery in batches as training has them; what is left over is not one."""
        objective, total, items = self.objective(), 0.0, 0
        device = next(self._system.parameters()).device
        for ids in chunks(self._chosen.ids, self.config.batch_size):
            if len(ids) == self.config.batch_size or not items:
                prepared = to_device(objective.prepare(self.collate(ids), 0), device)
                total += float(objective.losses(prepared).terms[0].term.total)
                items += len(ids)
        return total / items

    def score(self, result: TrainResult, terminal: Terminal, title: str) -> pd.DataFrame:
        """Ranks in both splits, and what stands first: id, split, image_rank, text_rank, images, texts."""
        parts = []
        with result.usable(), terminal.progress(title, 2) as bar:
            for split in (VALIDATION, TEST):
                gallery = self._gallery(split, self.config.gallery)
                image, text = search_gallery(self._system, self._by, gallery, self.collate, self._batch_size)
                ranks = {"image_rank": image.ranks, "text_rank": text.ranks}
                first = {"images": _named(image, gallery), "texts": _named(text, gallery)}
                parts.append(pd.DataFrame({"id": gallery.ids, "split": split, **ranks, **first}))
                bar.advance(1, f"{len(gallery.ids)} {split} items")
        return pd.concat(parts, ignore_index=True)

    def _gallery(self, split: str, most: int | None) -> Gallery:
        """The same items of a split for every variant, with what of them is equal."""
        items = self._data.items.get(split, [])
        ids, store = choose_items(items, len(items) if most is None else most), self._data.store
        texts, _ = pd.factorize(np.array([store.text(item) for item in ids], dtype=object))
        pictures, _ = pd.factorize(np.array([store.image(item).tobytes() for item in ids], dtype=object))
        return Gallery(ids, texts.astype(np.int64), pictures.astype(np.int64))

    def summary(self, result: TrainResult) -> Mapping[str, Any]:
        """Items, and the recall by which the best step was chosen."""
        return {
            "task": RETRIEVAL,
            "by": self._by,
            "training_items": len(self.examples),
            "items_seen": result.samples,
            "best_step": result.best_step,
            "final": {METRIC.name: result.best_value},
        }


def _named(searched: Searched, gallery: Gallery) -> list[list[str]]:
    """The items that stand first for each query."""
    return [[gallery.ids[place] for place in places] for places in searched.first.tolist()]


def check_items(data: TrainingData, workspace: Workspace) -> None:
    """`InputError` when a split that is searched has no items."""
    for split in (VALIDATION, TEST):
        if not len(data.items.get(split, ())):
            path = workspace.pairs / "items.parquet"
            raise InputError(f"{path}: the {split} split is empty; run `mlim pairs` again with more items")

"""Validation of pre-training: fixed items, fixed masks, every masking mode on its own."""

from collections.abc import Callable, Iterator, Sequence

import torch

from mlim.data.batches import ItemBatch
from mlim.data.loader import chunks, fetch_ahead
from mlim.data.seeds import numpy_generator
from mlim.data.transfer import to_device
from mlim.tasks.pretrain.objective import PreparedItems, PretrainObjective
from mlim.training.meter import LossMeter
from mlim.training.protocols import Validation

VALIDATION_SEED = 20210924  # of items and masks: the same for all trainings that are compared


def choose_items(ids: Sequence[str], count: int) -> list[str]:
    """`count` of the ids (all when there are fewer), the same ones every time, in their order."""
    places = numpy_generator("validation", VALIDATION_SEED).permutation(len(ids))[:count]
    return [ids[place] for place in sorted(places)]


class HeldOutLosses:
    """The losses of `objective` on `ids`; `objective` is made with `VALIDATION_SEED`, so its masks never change."""

    def __init__(
        self,
        objective: PretrainObjective,
        collate: Callable[[Sequence[str]], ItemBatch],
        ids: Sequence[str],
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._objective, self._collate, self._ids = objective, collate, ids
        self._batch_size, self._device = batch_size, device

    def __call__(self, step: int) -> Validation:
        """Mean losses by mode and over all modes; the model must be in evaluation mode."""
        meter = LossMeter()
        for prepared in self.prepared():
            meter.add(self._objective.losses(to_device(prepared, self._device)), prepared.counts)
        return Validation(meter.by_mode(), meter.overall())

    def prepared(self) -> Iterator[PreparedItems]:
        """The items in batches, each in every masking mode, on the CPU."""
        first = 0
        for batch in fetch_ahead(self._collate, chunks(self._ids, self._batch_size)):
            for mode in self._objective.modes:  # as if one step: masks do not depend on the batches
                yield self._objective.prepare(batch, 0, first, mode)
            first += len(batch.ids)

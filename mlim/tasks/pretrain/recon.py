"""RECON: the picture, hidden and visible patches alike (paper section 3.2)."""

from collections.abc import Callable, Sequence
from math import isqrt
from typing import Final

import torch
from torch import nn

from mlim.data.batches import ItemBatch
from mlim.losses import LossTerm, recon_loss
from mlim.models.system import Fused, Reconstructs, Shown, System
from mlim.tasks.pretrain.baselines import Pictures, TrainSample
from mlim.tasks.pretrain.passes import PassPlan
from mlim.tasks.pretrain.samples import ReconstructionSamples
from mlim.tasks.pretrain.task import Targets, Task, not_offered

PICTURES: Final = 1_000  # that the baselines learn from, at most


class Recon(Task[Fused]):
    """Targets are the rows (K,) of the items with their own picture; they count by pixels.

    With `normalise_patches` errors are divided by the variance of their patch, which no baseline is measured in.
    """

    name, reads = "recon", "fused"

    def __init__(self, system: System, normalise_patches: bool = False) -> None:
        if not isinstance(system, Reconstructs):
            raise not_offered(self.name, system)
        self._system: Reconstructs = system
        self._grid = isqrt(system.patches)
        self._normalised = normalise_patches

    @property
    def head(self) -> nn.Module:
        """The image decoder."""
        return self._system.decoder

    def read(self, shown: Shown) -> Fused:
        """Outputs of text and picture that have seen each other."""
        return self._system.fuse(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """The pixels of items with their own picture."""
        height, width = plan.batch.pixels.shape[-2:]
        return Targets(plan.kept, plan.kept.numel() * height * width)

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Squared error of the pictures."""
        if reading.patches is None:
            raise ValueError("RECON needs pictures, but the batch has none")
        drawn = self._system.reconstruct(reading.patches[targets.wanted])
        return recon_loss(drawn, batch.pixels[targets.wanted], self._grid if self._normalised else None)

    def operations(self, targets: Targets, items: int) -> float:
        """Operations of the decoder for every item."""
        return items * self._system.decoder_operations()

    def sampler(
        self, collate: Callable[[Sequence[str]], ItemBatch], ids: Sequence[str], share: float, device: torch.device
    ) -> ReconstructionSamples:
        """Draws the pictures of these items, a `share` of whose patches is hidden."""
        return ReconstructionSamples(self._system, self._grid, collate, ids, share, device)

    def baselines(self, sample: TrainSample) -> Pictures | None:
        """The mean picture, a shrunk copy, and principal components."""
        return None if self._normalised else Pictures(sample.pictures(PICTURES), self._grid, sample.components)

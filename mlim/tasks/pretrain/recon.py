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

    With `normalise_patches` errors are divided by the variance of their patch, which no baseline is measured in. In
    training each picture is reconstructed with probability `share`: as which ones are is a matter of chance, the mean
    over them estimates that over all without bias, and the decoder costs as much less.
    """

    name, reads = "recon", "fused"

    def __init__(self, system: System, normalise_patches: bool = False, share: float = 1.0) -> None:
        if not isinstance(system, Reconstructs):
            raise not_offered(self.name, system)
        self._system: Reconstructs = system
        self._grid = isqrt(system.patches)
        self._normalised, self._share = normalise_patches, share

    @property
    def head(self) -> nn.Module:
        """The image decoder."""
        return self._system.decoder

    def read(self, shown: Shown) -> Fused:
        """Outputs of text and picture that have seen each other."""
        return self._system.fuse(shown)

    def targets(self, plan: PassPlan) -> Targets:
        """The pixels of items with their own picture, in training of a share of them."""
        height, width = plan.batch.pixels.shape[-2:]
        wanted = plan.kept
        if plan.step is not None and plan.chance is not None:
            wanted = wanted[plan.chance[wanted] < self._share]
        return Targets(wanted, wanted.numel() * height * width)

    def loss(self, reading: Fused, targets: Targets, batch: ItemBatch) -> LossTerm:
        """Squared error of the pictures."""
        if reading.patches is None:
            raise ValueError("RECON needs pictures, but the batch has none")
        drawn = self._system.reconstruct(reading.patches[targets.wanted])
        return recon_loss(drawn, batch.pixels[targets.wanted], self._grid if self._normalised else None)

    def operations(self, targets: Targets, items: int) -> float:
        """Operations of the decoder for every picture that it draws."""
        return len(targets.wanted) * self._system.decoder_operations()

    def sampler(
        self, collate: Callable[[Sequence[str]], ItemBatch], ids: Sequence[str], share: float, device: torch.device
    ) -> ReconstructionSamples:
        """Draws the pictures of these items, a `share` of whose patches is hidden."""
        return ReconstructionSamples(self._system, self._grid, collate, ids, share, device)

    def baselines(self, sample: TrainSample) -> Pictures | None:
        """The mean picture, a shrunk copy, and principal components."""
        return None if self._normalised else Pictures(sample.pictures(PICTURES), self._grid, sample.components)

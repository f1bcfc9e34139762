"""Reconstruction samples, to watch a model learn: the same few pictures as they are, masked, and as the model draws."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from mlim.data.batches import ItemBatch
from mlim.data.seeds import torch_generator
from mlim.data.transfer import to_device
from mlim.models.system import Reconstructs, Shown

SAMPLES_SEED = 20210924  # of the masked patches: the same in every sample
GRAY = 0.5
BRIGHTEST = 255


class Sampler(Protocol):
    """Draws what a person can look at while a model is trained."""

    def draw(self) -> Image.Image:
        """A picture of what the model makes now of the same few items."""


class ReconstructionSamples:
    """Draws the items `ids`, a `share` of whose `grid` x `grid` patches is masked, with the model as it is by then."""

    def __init__(
        self,
        system: Reconstructs,
        grid: int,
        collate: Callable[[Sequence[str]], ItemBatch],
        ids: Sequence[str],
        share: float,
        device: torch.device,
    ) -> None:
        self._system, self._grid, self._collate, self._ids, self._device = system, grid, collate, ids, device
        draws = torch.rand((len(ids), grid**2), generator=torch_generator("strip", SAMPLES_SEED))
        self._masked = draws < share

    @torch.no_grad()
    def draw(self) -> Image.Image:
        """One column per item, and below each other the picture, what is shown of it, what is drawn."""
        batch = self._collate(self._ids).with_floats()
        here, masked = to_device(batch, self._device), self._masked.to(self._device)
        output = self._system.fuse(Shown(here.input_ids, here.text_attention, here.pixels, None, masked))
        if output.patches is None:
            raise ValueError("reconstruction samples need pictures")
        drawn = self._system.reconstruct(output.patches).float().cpu()
        rows = torch.stack([batch.pixels, self._hidden(batch.pixels), drawn])
        _, _, _, side, _ = rows.shape
        sheet = rows.permute(0, 3, 1, 4, 2).reshape(len(rows) * side, len(self._ids) * side, -1)
        return Image.fromarray((sheet.numpy() * BRIGHTEST).round().astype(np.uint8))

    def _hidden(self, pixels: torch.Tensor) -> torch.Tensor:
        """The pictures with gray where patches are masked."""
        patch = pixels.shape[-1] // self._grid
        places = self._masked.view(-1, 1, self._grid, self._grid)
        places = places.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        return torch.where(places, GRAY, pixels)

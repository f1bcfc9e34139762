"""Watching a model learn: the same few pictures, as they are, masked, and as the model draws them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from mlim.data.collate import ItemBatch
from mlim.data.seeds import torch_generator
from mlim.data.transfer import to_device
from mlim.models.mlim import Mlim

STRIP_SEED = 20210924  # of the masked cells: the same in every strip
GRAY = 0.5
BRIGHTEST = 255


class ReconstructionStrip:
    """Draws strips of the items `ids`, a `share` of whose cells is masked, with the model as it is at that time."""

    def __init__(
        self,
        model: Mlim,
        collate: Callable[[Sequence[str]], ItemBatch],
        ids: Sequence[str],
        share: float,
        device: torch.device,
    ) -> None:
        self._model, self._collate, self._ids, self._device = model, collate, ids, device
        draws = torch.rand((len(ids), model.config.cells), generator=torch_generator("strip", STRIP_SEED))
        self._masked = draws < share

    @torch.no_grad()
    def draw(self) -> Image.Image:
        """One column per item, and below each other the picture, what is shown of it, what is drawn."""
        batch = self._collate(self._ids).with_floats()
        on_device, masked = to_device(batch, self._device), self._masked.to(self._device)
        output = self._model.forward_items(
            on_device.input_ids, on_device.text_attention, on_device.pixels, None, masked
        )
        if output.cells is None:
            raise ValueError("a strip needs pictures")
        drawn = self._model.reconstruct(output.cells).float().cpu()
        rows = torch.stack([batch.pixels, self._hidden(batch.pixels), drawn])
        _, _, _, side, _ = rows.shape
        sheet = rows.permute(0, 3, 1, 4, 2).reshape(len(rows) * side, len(self._ids) * side, -1)
        return Image.fromarray((sheet.numpy() * BRIGHTEST).round().astype(np.uint8))

    def _hidden(self, pixels: torch.Tensor) -> torch.Tensor:
        """The pictures with gray where cells are masked."""
        grid = self._model.config.grid
        cell = pixels.shape[-1] // grid
        places = self._masked.view(-1, 1, grid, grid).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
        return torch.where(places, GRAY, pixels)

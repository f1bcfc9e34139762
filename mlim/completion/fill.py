"""What a pre-trained network makes of a cell: its outputs, and the log-probabilities its MLM head gives each value.

For those, all tokens of the cell are masked at once, as many as the candidate has; so their number, too, is the
candidate's and not the written value's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlim.completion.cells import Cell
from mlim.completion.probe import Reading
from mlim.completion.values import Candidates, Tokens
from mlim.data.batches import ItemBatch
from mlim.data.collate import ItemCollator, ItemSource
from mlim.data.loader import chunks
from mlim.data.tokenize import TextTokenizer
from mlim.models.item_vectors import mean_of_picture, mean_over
from mlim.models.system import PredictsTokens, Shown

Floats = NDArray[np.float64]
Around = Mapping[str, tuple[Sequence[int], Sequence[int]]]  # tokens before and after a cell, by its item


@dataclass(frozen=True)
class MaskedCells:
    """A `TokenSource`: texts in which a cell is `length` masks; where there is no room, the text's ends are cut."""

    around: Around
    mask: int
    length: int

    def ids(self, item: str, max_tokens: int) -> Sequence[int]:
        """At most `max_tokens` ids of an item's text, without [CLS] and [SEP]; all masks are among them."""
        before, after = self.around[item]
        room = max(max_tokens - self.length, 0)
        start = max(len(before) - room, 0)
        return [*before[start:], *[self.mask] * self.length, *after][: room + self.length]


class CellFiller:
    """A pre-trained model that reads cells."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: TextTokenizer,
        source: ItemSource,
        candidates: Candidates,
        max_tokens: int,
        batch_size: int,
    ) -> None:
        """`model` is a system that predicts tokens; texts are cut after `max_tokens`, as when it was trained."""
        if not isinstance(model, PredictsTokens):
            raise TypeError(f"{type(model).__name__} predicts no tokens")
        self._model, self._tokenizer, self._source = model, tokenizer, source
        self._device = next(model.eval().parameters()).device
        self._candidates, self._max_tokens, self._batch_size = candidates, max_tokens, batch_size

    def read(self, cells: Mapping[str, Cell], pictures: bool = True) -> Reading:
        """What the network makes of each cell, by its item; without `pictures` every patch is masked."""
        items, around = [*cells], [cell.around for cell in cells.values()]
        before, after = (self._tokenizer.encode_all([one[side] for one in around]) for side in (0, 1))
        known = dict(zip(items, zip(before, after, strict=True), strict=True))
        return Reading(self._scores(items, known, pictures), self._states(items, known, pictures))

    def _scores(self, items: Sequence[str], known: Around, pictures: bool) -> Floats:
        """For each cell and each candidate: the sum of its tokens' log-probabilities (cells, values)."""
        found = np.empty((len(items), len(self._candidates.values)))
        for length in sorted({*self._candidates.lengths}):
            places = [place for place, one in enumerate(self._candidates.lengths) if one == length]
            tokens = [self._candidates.tokens[place] for place in places]
            masked = MaskedCells(known, self._tokenizer.mask, length)
            found[:, places] = np.concatenate(
                [self._fit(batch, tokens, pictures) for batch in self._batches(items, masked)]
            )
        return found

    def _states(self, items: Sequence[str], known: Around, pictures: bool) -> Floats:
        """For each cell, as one mask, the outputs at it, and the means of the text's and the picture's (cells, 3 H)."""
        masked = MaskedCells(known, self._tokenizer.mask, 1)
        return np.concatenate([self._outputs(batch, pictures) for batch in self._batches(items, masked)])

    def _batches(self, items: Sequence[str], masked: MaskedCells) -> Iterator[ItemBatch]:
        collate = ItemCollator(self._source, self._tokenizer, self._max_tokens, masked)
        yield from map(collate, chunks(items, self._batch_size))

    @torch.inference_mode()
    def _fit(self, batch: ItemBatch, values: Sequence[Tokens], pictures: bool) -> Floats:
        """Sums of log-probabilities (B, values) of the tokens of values of one length."""
        shown = self._shown(batch, pictures)
        tokens = torch.tensor(values, device=self._device)  # (values, length)
        outputs = self._model.fuse(shown).text[self._masks(shown.input_ids)]
        logits: Tensor = self._model.mlm_logits(outputs).float()
        chances = logits.log_softmax(dim=-1).reshape(len(shown.input_ids), tokens.shape[1], -1)
        positions = torch.arange(tokens.shape[1], device=self._device)
        return _floats(chances[:, positions, tokens].sum(dim=-1))

    @torch.inference_mode()
    def _outputs(self, batch: ItemBatch, pictures: bool) -> Floats:
        """Outputs (B, 3 H): at the only mask, the mean of the text's, and that of the picture's, zeros without one."""
        shown = self._shown(batch, pictures)
        fused = self._model.fuse(shown)
        text = mean_over(fused.text, shown.text_attention)
        return _floats(torch.cat([fused.text[self._masks(shown.input_ids)], text, mean_of_picture(fused, text)], dim=1))

    def _shown(self, batch: ItemBatch, pictures: bool) -> Shown:
        ids, attention, pixels = (
            part.to(self._device) for part in (batch.input_ids, batch.text_attention, batch.pixels)
        )
        pixels = batch._replace(pixels=pixels).with_floats().pixels
        hidden = None if pictures else attention.new_ones(len(ids), self._model.patches)
        return Shown(ids, attention, pixels, text_mask=self._masks(ids), image_mask=hidden)

    def _masks(self, ids: Tensor) -> Tensor:
        return ids == self._tokenizer.mask


def _floats(values: Tensor) -> Floats:
    return np.asarray(values.float().cpu().numpy(), dtype=np.float64)

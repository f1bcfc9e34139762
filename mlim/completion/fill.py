"""How well each candidate value fits a cell: the log-probabilities that the MLM head gives its tokens.

All tokens of the cell are masked at once, as many as the candidate has; so their number, too, is the candidate's and
not the written value's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlim.completion.cells import Cell
from mlim.completion.values import Candidates, Tokens
from mlim.data.batches import ItemBatch
from mlim.data.collate import ItemCollator, ItemSource
from mlim.data.loader import chunks
from mlim.data.tokenize import TextTokenizer
from mlim.models.system import PredictsTokens, Shown

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MaskedCells:
    """A `TokenSource`: texts in which a cell is `length` masks; where there is no room, the text's ends are cut."""

    around: Mapping[str, tuple[Sequence[int], Sequence[int]]]
    mask: int
    length: int

    def ids(self, item: str, max_tokens: int) -> Sequence[int]:
        """At most `max_tokens` ids of an item's text, without [CLS] and [SEP]; all masks are among them."""
        before, after = self.around[item]
        room = max(max_tokens - self.length, 0)
        start = max(len(before) - room, 0)
        return [*before[start:], *[self.mask] * self.length, *after][: room + self.length]


class CellFiller:
    """A pre-trained model that scores values of a cell."""

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

    def scores(self, cells: Mapping[str, Cell], pictures: bool = True) -> Floats:
        """For each cell, by its item, and each candidate: the sum of its tokens' log-probabilities (cells, values).

        Without `pictures` every patch is masked.
        """
        items, around = [*cells], [cell.around for cell in cells.values()]
        before, after = (self._tokenizer.encode_all([one[side] for one in around]) for side in (0, 1))
        known = dict(zip(items, zip(before, after, strict=True), strict=True))
        found = np.empty((len(items), len(self._candidates.values)))
        for length in sorted({*self._candidates.lengths}):
            places = [place for place, one in enumerate(self._candidates.lengths) if one == length]
            tokens = [self._candidates.tokens[place] for place in places]
            masked = MaskedCells(known, self._tokenizer.mask, length)
            found[:, places] = np.concatenate(
                [self._fit(batch, tokens, pictures) for batch in self._batches(items, masked)]
            )
        return found

    def _batches(self, items: Sequence[str], masked: MaskedCells) -> Iterator[ItemBatch]:
        collate = ItemCollator(self._source, self._tokenizer, self._max_tokens, masked)
        yield from map(collate, chunks(items, self._batch_size))

    @torch.inference_mode()
    def _fit(self, batch: ItemBatch, values: Sequence[Tokens], pictures: bool) -> Floats:
        """Sums of log-probabilities (B, values) of the tokens of values of one length."""
        ids, attention, pixels = (
            part.to(self._device) for part in (batch.input_ids, batch.text_attention, batch.pixels)
        )
        pixels = batch._replace(pixels=pixels).with_floats().pixels
        hidden = None if pictures else attention.new_ones(len(ids), self._model.patches)
        shown = Shown(ids, attention, pixels, image_mask=hidden)
        tokens = torch.tensor(values, device=self._device)  # (values, length)
        outputs = self._model.fuse(shown).text[ids == self._tokenizer.mask]
        logits: Tensor = self._model.mlm_logits(outputs).float()
        chances = logits.log_softmax(dim=-1).reshape(len(ids), tokens.shape[1], -1)
        positions = torch.arange(tokens.shape[1], device=self._device)
        return np.asarray(chances[:, positions, tokens].sum(dim=-1).cpu().numpy(), dtype=np.float64)

"""Items and pairs of items as padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.data.images import as_floats, to_pixels
from mlim.data.tokenize import TextTokenizer
from mlim.data.tokens import TokenSource
from mlim.models.matcher import PairSide


class ItemSource(Protocol):
    """Where texts and pictures come from: an `ItemStore`, or what somebody sends to a served model."""

    def text(self, item: str, /) -> str:
        """What the model reads of an item."""

    def image(self, item: str, /) -> NDArray[np.uint8]:
        """Its picture (size, size, 3)."""


class Pair(NamedTuple):
    """A pair of items; `label` is 1 for a match, 0 for a mismatch."""

    item_a: str
    item_b: str
    label: int


class ItemBatch(NamedTuple):
    """Items for pre-training: [CLS] tokens [SEP] and pictures.

    input_ids (B, T) long; text_attention and maskable (B, T) bool, maskable without [CLS], [SEP], [PAD];
    pixels (B, 3, S, S) of 0..255 (uint8) until `with_floats`.
    """

    input_ids: torch.Tensor
    text_attention: torch.Tensor
    maskable: torch.Tensor
    pixels: torch.Tensor
    ids: list[str]

    def with_floats(self) -> Self:
        """The batch as models take it, pixels of [0, 1]; call it on the model's device."""
        return self._replace(pixels=as_floats(self.pixels))


class PairBatch(NamedTuple):
    """Pairs for matching; the texts of both sides are padded to one length so that sides can be exchanged.

    Tokens are raw ((B, T), no [CLS] and [SEP]: the matcher lays out the sequence); pixels as in `ItemBatch`; labels
    (B,) float of 0 and 1.
    """

    first: PairSide
    second: PairSide
    labels: torch.Tensor
    item_a: list[str]
    item_b: list[str]

    @property
    def ids(self) -> list[str]:
        """Every item in the batch, for messages."""
        return [*self.item_a, *self.item_b]

    def with_floats(self) -> Self:
        """The batch as models take it, pixels of [0, 1]; call it on the model's device."""
        first, second = (side._replace(pixels=as_floats(side.pixels)) for side in (self.first, self.second))
        return self._replace(first=first, second=second)


@dataclass(frozen=True)
class _Collator:
    """What both collators read of an item; without prepared `tokens` the texts are tokenised here and now."""

    source: ItemSource
    tokenizer: TextTokenizer
    max_tokens: int
    tokens: TokenSource | None = None

    def _token_ids(self, item: str) -> Sequence[int]:
        if self.tokens is not None:
            return self.tokens.ids(item, self.max_tokens)
        return self.tokenizer.encode(self.source.text(item), self.max_tokens)

    def _pixels(self, items: Sequence[str]) -> torch.Tensor:
        return to_pixels((self.source.image(item) for item in items), len(items))


class ItemCollator(_Collator):
    """Item ids to an `ItemBatch`; texts are cut after `max_tokens`."""

    def __call__(self, ids: Sequence[str]) -> ItemBatch:
        """The batch of these items, in this order."""
        cls, sep = self.tokenizer.cls, self.tokenizer.sep
        input_ids, attention = _pad([[cls, *self._token_ids(item), sep] for item in ids], self.tokenizer.pad)
        maskable = attention & (input_ids != cls) & (input_ids != sep)
        return ItemBatch(input_ids, attention, maskable, self._pixels(ids), [*ids])


class PairCollator(_Collator):
    """Pairs of item ids to a `PairBatch`; each text is cut after `max_tokens`."""

    def __call__(self, pairs: Sequence[Pair]) -> PairBatch:
        """The batch of these pairs, in this order."""
        item_a, item_b = [pair.item_a for pair in pairs], [pair.item_b for pair in pairs]
        both = [*item_a, *item_b]
        tokens, attention = _pad([self._token_ids(item) for item in both], self.tokenizer.pad)
        pixels = self._pixels(both)
        sides = [
            PairSide(tokens[part], attention[part], pixels[part])
            for part in (slice(len(pairs)), slice(len(pairs), None))
        ]
        labels = torch.tensor([float(pair.label) for pair in pairs])
        return PairBatch(sides[0], sides[1], labels, item_a, item_b)


def _pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids as (B, T) with `pad` at their ends, and where the real tokens are."""
    lengths = torch.tensor([len(row) for row in rows])
    width = max(1, *(len(row) for row in rows))  # at least one column: a batch of empty texts is still a batch
    tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long)
    return tokens, torch.arange(width) < lengths[:, None]

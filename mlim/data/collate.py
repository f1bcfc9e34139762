"""Items and pairs of items as padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from numpy.typing import NDArray

from mlim.data.batches import ItemBatch, PairBatch, PairSide
from mlim.data.images import to_pixels
from mlim.data.objects import Beside, collate_captions, collate_objects, collate_questions
from mlim.data.tokenize import TextTokenizer
from mlim.data.tokens import TokenSource

NOBODY = ""  # the id of no item


class ItemSource(Protocol):
    """Where texts and pictures come from: an `ItemStore`, a request to a served model, or `StoredRegions`."""

    def text(self, item: str, /) -> str:
        """What the model reads of an item."""

    def image(self, item: str, /) -> NDArray[Any]:
        """Its picture (size, size, 3) of uint8, or packed regions of float32 in its place."""


class GallerySource(ItemSource, Protocol):
    """Where an item may have several pictures: an `ItemStore`."""

    def image(self, item: str, picture: int = 0, /) -> NDArray[Any]:
        """Its picture of that number (size, size, 3); 0 is the first, of which alone regions are stored."""


class Look(NamedTuple):
    """An item, and which of its pictures is seen; 0 is the first."""

    item: str
    picture: int


class Pair(NamedTuple):
    """A pair of items; `label` is 1 for a match, 0 for a mismatch."""

    item_a: str
    item_b: str
    label: int


@dataclass(frozen=True)
class _Collator:
    """What all collators read of an item; without prepared `tokens` the texts are tokenised here and now.

    `beside` is what batches of items hold beside them.
    """

    source: ItemSource
    tokenizer: TextTokenizer
    max_tokens: int
    tokens: TokenSource | None = None
    beside: Beside | None = None

    def _token_ids(self, item: str) -> Sequence[int]:
        if self.tokens is not None:
            return self.tokens.ids(item, self.max_tokens)
        return self.tokenizer.encode(self.source.text(item), self.max_tokens)

    def _pixels(self, items: Sequence[str]) -> torch.Tensor:
        return to_pixels((self.source.image(item) for item in items), len(items))

    def _item_batch(self, ids: Sequence[str], pixels: torch.Tensor, known: Sequence[str]) -> ItemBatch:
        """The batch of these items; annotated are the pictures of those that are `known`."""
        cls, sep = self.tokenizer.cls, self.tokenizer.sep
        input_ids, attention = pad_tokens([[cls, *self._token_ids(item), sep] for item in ids], self.tokenizer.pad)
        maskable = attention & (input_ids != cls) & (input_ids != sep)
        batch = ItemBatch(input_ids, attention, maskable, pixels, [*ids])
        if self.beside is None:
            return batch
        source, wants_objects, wants_captions, regions, answers = self.beside
        objects = collate_objects(source, known) if wants_objects else None
        captions = collate_captions(source, known, self.tokenizer, self.max_tokens) if wants_captions else None
        labels = None if regions is None else regions.labels(known)
        batch = batch._replace(objects=objects, captions=captions, region_labels=labels)
        if not answers:
            return batch
        most = (self.max_tokens, input_ids.shape[1])
        return batch.with_questions(collate_questions(source, ids, answers, self.tokenizer, most), self.tokenizer.pad)


class ItemCollator(_Collator):
    """Item ids to an `ItemBatch`; texts are cut after `max_tokens`."""

    def __call__(self, ids: Sequence[str]) -> ItemBatch:
        """The batch of these items, in this order."""
        return self._item_batch(ids, self._pixels(ids), ids)


@dataclass(frozen=True)
class LookCollator(_Collator):
    """Looks at items to an `ItemBatch`; texts are cut after `max_tokens`."""

    source: GallerySource

    def __call__(self, looks: Sequence[Look]) -> ItemBatch:
        """The batch of these items with the pictures that the looks name, in this order."""
        pictures = (self.source.image(look.item, look.picture) for look in looks)
        known = [NOBODY if look.picture else look.item for look in looks]  # annotated is the first picture
        return self._item_batch([look.item for look in looks], to_pixels(pictures, len(looks)), known)


class PairCollator(_Collator):
    """Pairs of item ids to a `PairBatch`; each text is cut after `max_tokens`."""

    def __call__(self, pairs: Sequence[Pair]) -> PairBatch:
        """The batch of these pairs, in this order."""
        item_a, item_b = [pair.item_a for pair in pairs], [pair.item_b for pair in pairs]
        both = self.side([*item_a, *item_b])
        first, second = (
            PairSide(*(part[half] for part in both)) for half in (slice(len(pairs)), slice(len(pairs), None))
        )
        labels = torch.tensor([float(pair.label) for pair in pairs])
        return PairBatch(first, second, labels, item_a, item_b)

    def side(self, items: Sequence[str]) -> PairSide:
        """These items as one side of as many pairs, in this order."""
        tokens, attention = pad_tokens([self._token_ids(item) for item in items], self.tokenizer.pad)
        return PairSide(tokens, attention, self._pixels(items))


def pad_tokens(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids as (B, T) with `pad` at their ends, and where the real tokens are."""
    attention = attention_of(torch.tensor([len(row) for row in rows]))
    width = attention.shape[1]
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long), attention


def attention_of(lengths: torch.Tensor) -> torch.Tensor:
    """Where the real tokens of texts of these lengths (B,) are, (B, T) bool."""
    width = max(1, int(lengths.max()))  # at least one column: a batch of empty texts is still a batch
    return torch.arange(width) < lengths[:, None]

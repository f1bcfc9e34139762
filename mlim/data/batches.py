"""What a network is given at a time: padded texts and pictures of items, or of pairs of items."""

from typing import NamedTuple, Self

from torch import Tensor

from mlim.data.images import as_floats


class ItemBatch(NamedTuple):
    """Items for pre-training: [CLS] tokens [SEP] and pictures.

    input_ids (B, T) long; text_attention and maskable (B, T) bool, maskable without [CLS], [SEP], [PAD];
    pixels (B, 3, S, S) of 0..255 (uint8) until `with_floats`.
    """

    input_ids: Tensor
    text_attention: Tensor
    maskable: Tensor
    pixels: Tensor
    ids: list[str]

    def with_floats(self) -> Self:
        """The batch as models take it, pixels of [0, 1]; call it on the model's device."""
        return self._replace(pixels=as_floats(self.pixels))


class PairSide(NamedTuple):
    """One item of every pair of a batch.

    `tokens` (B, T) ids without [CLS] and [SEP], padded; `attention` (B, T) bool, False at padding;
    `pixels` (B, 3, S, S) in [0, 1]. The two sides may differ in T.
    """

    tokens: Tensor
    attention: Tensor
    pixels: Tensor


class PairBatch(NamedTuple):
    """Pairs for matching; the texts of both sides are padded to one length so that sides can be exchanged.

    Tokens are raw ((B, T), no [CLS] and [SEP]: the matcher lays out the sequence); pixels as in `ItemBatch`; labels
    (B,) float of 0 and 1.
    """

    first: PairSide
    second: PairSide
    labels: Tensor
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

"""Texts about pictures that want an answer: a question about one, a statement about two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from mlim.data.collate import ItemSource, pad_tokens
from mlim.data.images import as_floats, to_pixels
from mlim.data.tokenize import TextTokenizer


class Asked(NamedTuple):
    """A text that stands in the place of the items' own; `right` has the scores of classes that are right, 0 to 1."""

    name: str
    text: str
    items: tuple[str, ...]
    right: Mapping[int, float]


class AskedBatch(NamedTuple):
    """B texts, each about P pictures: [CLS] tokens [SEP], all first pictures, then all second ones ...

    input_ids (B, T) long; text_attention (B, T) bool, False at padding; pixels (P * B, 3, S, S); scores (B, classes)
    of what is right; ids: the P * B items whose pictures these are.
    """

    input_ids: Tensor
    text_attention: Tensor
    pixels: Tensor
    scores: Tensor
    ids: list[str]

    def with_floats(self) -> Self:
        """The batch as models take it, pixels of [0, 1]; call it on the model's device."""
        return self._replace(pixels=as_floats(self.pixels))


@dataclass(frozen=True)
class AskedCollator:
    """Texts about pictures to an `AskedBatch`; texts are cut after `max_tokens`. The items' own texts are not read."""

    source: ItemSource
    tokenizer: TextTokenizer
    max_tokens: int
    classes: int

    def __call__(self, asked: Sequence[Asked]) -> AskedBatch:
        """The batch of these texts, in this order; all are about equally many pictures."""
        cls, sep = self.tokenizer.cls, self.tokenizer.sep
        rows = [[cls, *self.tokenizer.encode(one.text, self.max_tokens), sep] for one in asked]
        ids = [item for turn in zip(*(one.items for one in asked), strict=True) for item in turn]
        pixels = to_pixels((self.source.image(item) for item in ids), len(ids))
        return AskedBatch(*pad_tokens(rows, self.tokenizer.pad), pixels, right_scores(asked, self.classes), ids)


def right_scores(asked: Sequence[Asked], classes: int) -> Tensor:
    """The scores (B, classes) of every answer."""
    scores = torch.zeros(len(asked), classes)
    for row, one in enumerate(asked):
        for number, score in one.right.items():
            scores[row, number] = score
    return scores

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


class WrittenBatch(NamedTuple):
    """B questions about a picture each, and the answers that are written after them.

    input_ids (B, T) long: [CLS] question [SEP] answer [SEP], then [PAD]; begun (B,) long: tokens before the first
    [SEP]; lengths (B,) long: all tokens; pixels (B, 3, S, S); ids: the items whose pictures these are.
    """

    input_ids: Tensor
    begun: Tensor
    lengths: Tensor
    pixels: Tensor
    ids: list[str]

    def with_floats(self) -> Self:
        """The batch as models take it, pixels of [0, 1]; call it on the model's device."""
        return self._replace(pixels=as_floats(self.pixels))


@dataclass(frozen=True)
class WrittenCollator:
    """Questions to a `WrittenBatch`, cut after `max_tokens`; without `asks` the questions are left out.

    `answers` are the tokens of every class; the best answer to a question is written, none where no class is right.
    """

    source: ItemSource
    tokenizer: TextTokenizer
    max_tokens: int
    answers: Sequence[Sequence[int]]
    asks: bool = True

    def __call__(self, asked: Sequence[Asked]) -> WrittenBatch:
        """The batch of these questions, in this order."""
        cls, sep = self.tokenizer.cls, self.tokenizer.sep
        begun = [[cls, *(self.tokenizer.encode(one.text, self.max_tokens) if self.asks else ())] for one in asked]
        rows = [[*start, sep, *self._answer(one), sep] for start, one in zip(begun, asked, strict=True)]
        ids = [one.items[0] for one in asked]
        pixels = to_pixels((self.source.image(item) for item in ids), len(ids))
        places, lengths = (torch.tensor([len(row) for row in each]) for each in (begun, rows))
        return WrittenBatch(pad_tokens(rows, self.tokenizer.pad)[0], places, lengths, pixels, ids)

    def _answer(self, asked: Asked) -> Sequence[int]:
        best = max(asked.right, key=lambda number: (asked.right[number], -number), default=None)
        return () if best is None else self.answers[best]


def right_scores(asked: Sequence[Asked], classes: int) -> Tensor:
    """The scores (B, classes) of every answer."""
    scores = torch.zeros(len(asked), classes)
    for row, one in enumerate(asked):
        for number, score in one.right.items():
            scores[row, number] = score
    return scores

"""What is known of pictures beside their items: objects and captions, from the annotations of a catalog."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mlim.config import Config
from mlim.data.batches import Captions, Objects, Questions, RegionLabels
from mlim.data.tokenize import TextTokenizer
from mlim.losses import UNKNOWN

CORNERS = 4


class ObjectNames(Config):
    """What objects are called: `labels`, and for each kind of attribute its values; numbers are places in these."""

    labels: tuple[str, ...] = ()
    attributes: Mapping[str, tuple[str, ...]] = {}

    def values(self) -> list[int]:
        """How many values each kind has."""
        return [len(values) for values in self.attributes.values()]


NO_OBJECTS = ObjectNames()


class Region(NamedTuple):
    """An object: its corners (x0, y0, x1, y1) in 0..1, its label, its value of each kind of attribute, by number.

    `score` is how sure the label is.
    """

    corners: tuple[float, float, float, float]
    label: int
    attributes: tuple[int, ...] = ()  # `UNKNOWN` where it has none
    score: float = 1.0


class Posed(NamedTuple):
    """A question with the scores of its answers, 0 to 1."""

    text: str
    answers: Mapping[str, float]


class Annotated(Protocol):
    """Where annotations come from."""

    @property
    def names(self) -> ObjectNames:
        """What objects are called."""

    def regions(self, item: str, /) -> Sequence[Region]:
        """The objects in an item's picture; none where it is not annotated."""

    def captions(self, item: str, /) -> Sequence[str]:
        """Texts about an item's picture; none where it is not annotated."""

    def questions(self, item: str, /) -> Sequence[Posed]:
        """Questions about an item's picture; none where it is not annotated."""


class LabelsRegions(Protocol):
    """Where labels of stored regions come from."""

    def labels(self, items: Sequence[str], /) -> RegionLabels:
        """What is to be seen in the regions of a batch."""


class Beside(NamedTuple):
    """What a batch holds beside its items: `objects`, `captions` or both from `source`, labels of stored `regions`.

    Questions, too, where there is a table of `answers`.
    """

    source: Annotated
    objects: bool
    captions: bool
    regions: LabelsRegions | None = None
    answers: tuple[str, ...] = ()


class Known(NamedTuple):
    """What of the data shapes a network: names of objects, the size of stored features of regions, and the answers."""

    objects: ObjectNames = NO_OBJECTS
    feature_size: int | None = None
    answers: tuple[str, ...] = ()


NOTHING = Known()


def collate_objects(source: Annotated, items: Sequence[str]) -> Objects:
    """The objects of a batch, centres and sizes."""
    rows, kinds = [source.regions(item) for item in items], len(source.names.attributes)
    numbers = torch.tensor([len(row) for row in rows])
    most = max(1, *(len(row) for row in rows))
    corners, labels = torch.zeros(len(rows), most, CORNERS), torch.full((len(rows), most), UNKNOWN)
    attributes = torch.full((len(rows), most, kinds), UNKNOWN)
    for number, row in enumerate(rows):
        if row:
            corners[number, : len(row)] = torch.tensor([region.corners for region in row])
            labels[number, : len(row)] = torch.tensor([region.label for region in row])
            attributes[number, : len(row)] = torch.tensor([region.attributes for region in row]).view(len(row), kinds)
    low, high = corners[..., :2], corners[..., 2:]
    return Objects(torch.cat([(low + high) / 2, high - low], dim=-1), labels, attributes, numbers)


def collate_questions(
    source: Annotated,
    items: Sequence[str],
    answers: Sequence[str],
    tokenizer: TextTokenizer,
    most: tuple[int, int],
) -> Questions:
    """The questions of a batch; `most` are the tokens that one is cut after, and the width of the batch's texts.

    The answer of a question is the best of those in the table `answers`; of equally good ones the more frequent one.
    """
    max_tokens, width = most
    numbers = {answer: number for number, answer in enumerate(answers)}
    asked = [source.questions(item) for item in items]
    texts = [[question.text for question in row] for row in asked]
    ids, lengths = _collate_texts(texts, tokenizer, max_tokens, width)
    right = torch.full(lengths.shape, UNKNOWN)
    for row, questions in enumerate(asked):
        for place, question in enumerate(questions):
            known = [(-score, numbers[answer]) for answer, score in question.answers.items() if answer in numbers]
            right[row, place] = min(known)[1] if known else UNKNOWN
    return Questions(ids, lengths, right)


def collate_captions(source: Annotated, items: Sequence[str], tokenizer: TextTokenizer, max_tokens: int) -> Captions:
    """The captions of a batch; each is cut after `max_tokens`."""
    return Captions(*_collate_texts([source.captions(item) for item in items], tokenizer, max_tokens))


def _collate_texts(
    texts: Sequence[Sequence[str]], tokenizer: TextTokenizer, max_tokens: int, width: int = 1
) -> tuple[Tensor, Tensor]:
    """Several texts of each item as ids (B, K, at least `width`), padded, and their lengths (B, K)."""
    rows = [[[tokenizer.cls, *tokenizer.encode(text, max_tokens), tokenizer.sep] for text in row] for row in texts]
    most = max(1, *(len(row) for row in rows))
    longest = max(width, *(len(ids) for row in rows for ids in row), 1)
    ids = torch.full((len(rows), most, longest), tokenizer.pad)
    lengths = torch.zeros(len(rows), most, dtype=torch.long)
    for number, row in enumerate(rows):
        for place, text in enumerate(row):
            ids[number, place, : len(text)] = torch.tensor(text)
            lengths[number, place] = len(text)
    return ids, lengths

"""What is known of pictures beside their items: objects and captions, from the annotations of a catalog."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from mlim.config import Config
from mlim.data.batches import Captions, Objects, RegionLabels
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


class Annotated(Protocol):
    """Where annotations come from."""

    @property
    def names(self) -> ObjectNames:
        """What objects are called."""

    def regions(self, item: str, /) -> Sequence[Region]:
        """The objects in an item's picture; none where it is not annotated."""

    def captions(self, item: str, /) -> Sequence[str]:
        """Texts about an item's picture; none where it is not annotated."""


class LabelsRegions(Protocol):
    """Where labels of stored regions come from."""

    def labels(self, items: Sequence[str], /) -> RegionLabels:
        """What is to be seen in the regions of a batch."""


class Beside(NamedTuple):
    """What a batch holds beside its items: `objects`, `captions` or both from `source`, labels of stored `regions`."""

    source: Annotated
    objects: bool
    captions: bool
    regions: LabelsRegions | None = None


class Known(NamedTuple):
    """What of the data shapes a network: what objects are called, and the size of stored features of regions."""

    objects: ObjectNames = NO_OBJECTS
    feature_size: int | None = None


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


def collate_captions(source: Annotated, items: Sequence[str], tokenizer: TextTokenizer, max_tokens: int) -> Captions:
    """The captions of a batch; each is cut after `max_tokens`."""
    rows = [
        [[tokenizer.cls, *tokenizer.encode(text, max_tokens), tokenizer.sep] for text in source.captions(item)]
        for item in items
    ]
    most = max(1, *(len(row) for row in rows))
    longest = max(1, *(len(ids) for row in rows for ids in row), 1)
    ids = torch.full((len(rows), most, longest), tokenizer.pad)
    lengths = torch.zeros(len(rows), most, dtype=torch.long)
    for number, row in enumerate(rows):
        for place, text in enumerate(row):
            ids[number, place, : len(text)] = torch.tensor(text)
            lengths[number, place] = len(text)
    return Captions(ids, lengths)

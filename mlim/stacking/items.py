"""Items as everything but the matcher reads them: texts, what is measured on pictures, and columns."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlim.console import ProgressBar
from mlim.data.collate import ItemSource
from mlim.pairs.similarities import Vector
from mlim.stacking.pictures import Measure, Picture, picture_of

Columns = Mapping[str, str]
UNKNOWN: Final[Columns] = MappingProxyType({})  # of an item that came as one text


class ColumnSource(ItemSource, Protocol):
    """Where items have columns too, of some of them perhaps."""

    def columns(self, item: str, /) -> Columns:
        """The columns that its text is made from, "" where one has no value; nothing where they are not known."""


class Items(NamedTuple):
    """Texts (n,), what is measured on the pictures (n,), and columns (n,) of items; without any: not known."""

    texts: Sequence[str]
    pictures: Sequence[Picture]
    columns: Sequence[Columns]

    @property
    def measures(self) -> Vector:
        """The measures of the pictures, (n, k)."""
        return np.stack([picture.measures for picture in self.pictures])


def describe(source: ColumnSource, ids: Sequence[str], bar: ProgressBar, measure: Measure = picture_of) -> Items:
    """Read the items `ids`; `bar` advances by one for each. `measure` may remember pictures that come back."""
    pictures = []
    for item in ids:
        pictures.append(measure(source.image(item)))
        bar.advance()
    return Items([source.text(item) for item in ids], pictures, [source.columns(item) for item in ids])


def texts_at(items: Items, chosen: NDArray[np.bool_]) -> list[str]:
    """The texts of the chosen items; `chosen` is (n,)."""
    return [text for text, wanted in zip(items.texts, chosen, strict=True) if wanted]

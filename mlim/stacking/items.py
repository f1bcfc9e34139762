"""Items as everything but the matcher reads them: their texts, and what is measured on their pictures."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.console import ProgressBar
from mlim.data.collate import ItemSource
from mlim.pairs.similarities import Vector
from mlim.stacking.pictures import Picture, picture_of

Measure = Callable[[NDArray[np.uint8]], Picture]


class Items(NamedTuple):
    """Texts (n,) and what is measured on the pictures (n,) of items."""

    texts: Sequence[str]
    pictures: Sequence[Picture]

    @property
    def measures(self) -> Vector:
        """The measures of the pictures, (n, k)."""
        return np.stack([picture.measures for picture in self.pictures])


def describe(source: ItemSource, ids: Sequence[str], bar: ProgressBar, measure: Measure = picture_of) -> Items:
    """Read the items `ids`; `bar` advances by one for each. `measure` may remember pictures that come back."""
    pictures = []
    for item in ids:
        pictures.append(measure(source.image(item)))
        bar.advance()
    return Items([source.text(item) for item in ids], pictures)


def texts_at(items: Items, chosen: NDArray[np.bool_]) -> list[str]:
    """The texts of the chosen items; `chosen` is (n,)."""
    return [text for text, wanted in zip(items.texts, chosen, strict=True) if wanted]

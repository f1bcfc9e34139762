"""The profile of a data version: its categories and a few histograms, small enough to keep for every version."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from mlim.catalog.values import DEFAULT, Comparison
from mlim.config import Config
from mlim.quality.drift import Divergence, divergence
from mlim.quality.measures import Measures

CELLS = 20
LONGEST_TEXT = 100_000
EDGES: Mapping[str, NDArray[np.float64]] = {  # fixed, so that profiles of all versions can be compared
    "text": np.geomspace(1, LONGEST_TEXT, CELLS + 1),  # characters
    "brightness": np.linspace(0, 1, CELLS + 1),
    "contrast": np.linspace(0, 0.5, CELLS + 1),
    "aspect": np.linspace(-2, 2, CELLS + 1),  # binary logarithm of width through height
}
MAX_CATEGORIES = 1000
OTHER_CATEGORIES = "(other categories)"
CATEGORY = "category"
DECIMALS = 6


@dataclass(frozen=True)
class Counts:
    """What a profile is made of; counts of parts of a data version are added up."""

    items: int
    categories: Counter[str | None]
    histograms: Mapping[str, NDArray[np.int64]]

    @classmethod
    def nothing(cls) -> Self:
        """The counts of no items."""
        return cls(0, Counter(), {name: np.zeros(len(edges) - 1, dtype=np.int64) for name, edges in EDGES.items()})

    @classmethod
    def of(cls, measures: Measures, accepted: NDArray[np.bool_]) -> Self:
        """Count the accepted items; `accepted` is (items,)."""
        chosen = slice(None) if accepted.all() else accepted
        histograms = {name: _histogram(values[chosen], EDGES[name]) for name, values in _values(measures).items()}
        return cls(int(np.count_nonzero(accepted)), _count_categories(measures, chosen), histograms)

    def __add__(self, other: Self) -> Self:
        histograms = {name: self.histograms[name] + other.histograms[name] for name in EDGES}
        return type(self)(self.items + other.items, self.categories + other.categories, histograms)


class Profile(Config):
    """Counts of a data version; `categories` is ordered by count, then name (null: items without one)."""

    items: NonNegativeInt
    categories: tuple[tuple[str | None, NonNegativeInt], ...]
    histograms: dict[str, tuple[NonNegativeInt, ...]]

    @classmethod
    def of(cls, counts: Counts) -> Self:
        """The profile of the items that were counted."""
        return cls(
            items=counts.items,
            categories=_most_frequent(counts.categories),
            histograms={name: tuple(cells.tolist()) for name, cells in counts.histograms.items()},
        )

    @property
    def has_categories(self) -> bool:
        """Whether any item has a category."""
        return any(name is not None for name, _ in self.categories)


def compare(reference: Profile, present: Profile, category: Comparison = DEFAULT) -> list[Divergence]:
    """How categories and each histogram moved; categories only where the reference has some.

    `category` tells which names of the two versions are one category.
    """
    moved = [divergence(name, reference.histograms[name], present.histograms[name]) for name in EDGES]
    if not reference.has_categories:
        return moved
    one, other = (_by_category(profile, category) for profile in (reference, present))
    names = list(dict.fromkeys([*one, *other]))
    return [divergence(CATEGORY, [one[n] for n in names], [other[n] for n in names]), *moved]


def _by_category(profile: Profile, category: Comparison) -> Counter[str | None]:
    counts = Counter[str | None]()
    for name, count in profile.categories:
        counts[None if name is None else category.comparable(name)] += count
    return counts


def _values(measures: Measures) -> dict[str, NDArray[np.float64]]:
    columns = measures.columns
    sides = [np.maximum(columns[name], 1).astype(np.float32) for name in ("image_width", "image_height")]
    return {
        "text": columns["text_characters"],
        "brightness": columns["image_brightness"],
        "contrast": columns["image_contrast"],
        "aspect": np.log2(sides[0] / sides[1]),
    }


def _histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Counts by cell; what lies outside counts in the first or last one."""
    inner = edges[1:-1].astype(np.float32 if values.dtype == np.float32 else np.float64)
    cells = np.searchsorted(inner, values, "right")
    return np.bincount(cells, minlength=len(edges) - 1)


def _count_categories(measures: Measures, chosen: NDArray[np.bool_] | slice) -> Counter[str | None]:
    counts = np.bincount(measures.columns["category"][chosen], minlength=len(measures.categories)).tolist()
    return Counter({name: count for name, count in zip(measures.categories, counts, strict=True) if count})


def _most_frequent(categories: Counter[str | None]) -> Sequence[tuple[str | None, int]]:
    """The most frequent categories; the rest, if there are very many, as one."""
    named = sorted(categories.items(), key=lambda entry: (-entry[1], entry[0] is None, entry[0] or ""))
    rest = sum(count for _, count in named[MAX_CATEGORIES:])
    return [*named[:MAX_CATEGORIES], *([(OTHER_CATEGORIES, rest)] if rest else [])]

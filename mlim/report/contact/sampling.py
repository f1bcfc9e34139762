"""Which items and families are shown: drawn with a seed, evenly over what a catalog consists of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlim.report.contact.measures import Measures
from mlim.report.contact.settings import ContactSettings

FEWEST_MEMBERS = 2  # of a family worth looking at


def sample_items(measures: Measures, count: int, seed: int) -> list[int]:
    """Items in catalog order: an equal number of each category (none: a category too), spread over the shards."""
    generator = np.random.default_rng(seed)
    strata = _strata(measures.category.codes, generator)
    quotas = _quotas([len(stratum) for stratum in strata], count)
    chosen = [_spread(stratum, quota, generator) for stratum, quota in zip(strata, quotas, strict=True)]
    return sorted(int(item) for items in chosen for item in items)


def _strata(codes: NDArray[np.int32], generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """The items of each category; the categories in random order, so that many of them share few places fairly."""
    order = np.argsort(codes, kind="stable")
    borders = np.flatnonzero(np.diff(codes[order])) + 1
    strata = [part for part in np.split(order, borders) if len(part)]
    return [strata[place] for place in generator.permutation(len(strata))]


def _quotas(sizes: list[int], count: int) -> list[int]:
    """How many to take of each: one each in turn until `count` are given away or nothing is left."""
    quotas = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        for place, size in enumerate(sizes):
            if left and quotas[place] < size:
                quotas[place] += 1
                left -= 1
    return quotas


def _spread(items: NDArray[np.int64], count: int, generator: np.random.Generator) -> list[int]:
    """One item at random from each of `count` equal stretches."""
    return [int(generator.choice(stretch)) for stretch in np.array_split(items, count)] if count else []


@dataclass(frozen=True)
class FamilyChoice:
    """A family to show: its name, how many items it has, which of them are shown, why it was chosen."""

    name: str
    size: int
    members: tuple[int, ...]
    why: str


def family_sizes(measures: Measures) -> NDArray[np.int64]:
    """Items of each family, by the family's code; (families,)."""
    codes = measures.family.codes
    return np.bincount(codes[codes >= 0], minlength=len(measures.family.names)).astype(np.int64)


def choose_families(measures: Measures, settings: ContactSettings) -> list[FamilyChoice]:
    """The largest families (equal ones by name), then some of the others that have more than one item, at random."""
    sizes = family_sizes(measures)
    several = [int(code) for code in np.flatnonzero(sizes >= FEWEST_MEMBERS)]
    names = measures.family.names
    ordered = sorted(several, key=lambda code: (-sizes[code], names[code]))
    largest, others = ordered[: settings.largest_families], ordered[settings.largest_families :]
    generator = np.random.default_rng(settings.seed)
    drawn = generator.permutation(np.array(others, dtype=np.int64))[: settings.random_families].tolist()
    reasons = dict.fromkeys(largest, "among the largest") | dict.fromkeys(drawn, "drawn at random")
    return [
        FamilyChoice(names[code], int(sizes[code]), _members(measures, code, settings.family_members), why)
        for code, why in reasons.items()
    ]


def _members(measures: Measures, family: int, most: int) -> tuple[int, ...]:
    return tuple(int(item) for item in np.flatnonzero(measures.family.codes == family)[:most])

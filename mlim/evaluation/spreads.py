"""How far trainings differ from seed to seed, pooled over the variants that are alike in it (docs/statistics.md).

A variant of large spread must not change that of the others, nor have theirs. A test on the figures of all
variants decides: Bartlett's statistic (1937), whose distribution over variants of equal spread is drawn, as the seeds
are few and their common part is taken out first. Variants that differ are parted at the largest step between
neighbouring spreads, until no test tells the rest of a group apart.
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.pr_auc import Scores

FEWEST: Final = 2  # variants or seeds that a spread can be measured between
LEVEL: Final = 0.2  # lenient: splitting variants without need costs power, pooling them wrongly makes intervals wrong
DRAWN: Final = 4000  # tables of equal variants that the limit of the test is taken from
SMALLEST: Final = 1e-12  # a variance below is rounding

Name = TypeVar("Name", bound=Hashable)
Table = NDArray[np.float64]


class Spread(NamedTuple):
    """A standard deviation between seeds, its degrees of freedom, and the variants that it is pooled over."""

    value: float
    freedom: float
    variants: tuple[Hashable, ...] = ()


def pooled_spread(by_seed: Sequence[Scores]) -> Spread | None:
    """The standard deviation between seeds of a difference of two variants, from all variants together.

    `by_seed` holds a figure (k,) of every variant for the same seeds. What is left of them without the means of
    variants and seeds (randomised blocks, Fisher 1935) has (variants - 1)(k - 1) degrees of freedom: with few seeds far
    more than the k - 1 of one difference. None with fewer than two variants or seeds.
    """
    figures = np.stack(by_seed) if by_seed else np.empty((0, 0))
    freedom = (figures.shape[0] - 1) * (figures.shape[1] - 1)
    if min(figures.shape) < FEWEST:
        return None
    left = figures - figures.mean(axis=0) - figures.mean(axis=1, keepdims=True) + figures.mean()
    return Spread(float(np.sqrt(2 * np.square(left).sum() / freedom)), freedom)


class Pools(Generic[Name]):
    """Variants in groups of like spread between seeds, from the figures (k,) of every variant for the same seeds."""

    def __init__(self, by_seed: Mapping[Name, Scores]) -> None:
        self._by_seed = by_seed
        variants = list(by_seed)
        figures = np.stack([by_seed[variant] for variant in variants]) if variants else np.empty((0, 0))
        parted = [[*range(len(variants))]] if min(figures.shape) < FEWEST else _parted(figures, [*range(len(variants))])
        self.groups: tuple[tuple[Name, ...], ...] = tuple(tuple(variants[at] for at in group) for group in parted)

    def between(self, first: Name, second: Name) -> Spread | None:
        """The spread of a difference of two variants of one group; None for others, which have their own alone."""
        group = next((group for group in self.groups if first in group), ())
        if second not in group:
            return None
        found = pooled_spread([self._by_seed[variant] for variant in group])
        return None if found is None else found._replace(variants=group)


def spread_parts(figures: Sequence[Table]) -> dict[str, float | None]:
    """Standard deviations between pre-trainings and between fine-tunings of one, from figures (seeds, k) by variant.

    The components of variance of a balanced nested design: the mean square within seeds is the part of fine-tuning,
    that between the means of seeds less its share of it the part of pre-training. None where there is one seed or one
    fine-tuning.
    """
    seeds, tunings = figures[0].shape
    within = float(np.mean([one.var(axis=1, ddof=1).mean() for one in figures])) if tunings >= FEWEST else None
    between = float(np.mean([one.mean(axis=1).var(ddof=1) for one in figures])) if seeds >= FEWEST else None
    own = None if between is None or within is None else np.sqrt(max(between - within / tunings, 0.0))
    return {"pretrainings": None if own is None else float(own), "finetunings": None if within is None else within**0.5}


def _parted(figures: Table, variants: list[int]) -> list[list[int]]:
    """The variants of `figures` (all, k) in groups whose spreads the test does not tell apart."""
    if len(variants) <= FEWEST:  # a difference of two variants has one spread, however it is divided among them
        return [variants]
    variances = _variances(figures[variants])
    if _bartlett(variances, figures.shape[1]) <= _limit(len(variants), figures.shape[1]):
        return [variants]
    order = np.argsort(variances, kind="stable")
    cut = int(np.argmax(np.diff(np.log(variances[order])))) + 1
    steady, unsteady = (sorted(variants[at] for at in part) for part in (order[:cut], order[cut:]))
    return [*_parted(figures, steady), *_parted(figures, unsteady)]


def _variances(figures: Table) -> Table:
    """Variances (..., variants) between seeds of figures (..., variants, k), less what a seed does to all variants.

    That is the median over the variants of how far each lies from its own mean: how good they are plays no part.
    """
    own = figures - figures.mean(axis=-1, keepdims=True)
    left = own - np.median(own, axis=-2, keepdims=True)
    return np.asarray(np.maximum(left.var(axis=-1, ddof=1), SMALLEST))


def _bartlett(variances: Table, seeds: int) -> Table:
    """Bartlett's statistic without its constant factor: large where the variances (..., variants) differ."""
    variants = variances.shape[-1]
    mean = variances.mean(axis=-1)
    return np.asarray((seeds - 1) * (variants * np.log(mean) - np.log(variances).sum(axis=-1)))


@cache
def _limit(variants: int, seeds: int) -> float:
    """What the statistic exceeds in LEVEL of the tables whose variants have equal spreads."""
    drawn = np.random.default_rng(0).normal(size=(DRAWN, variants, seeds))
    return float(np.quantile(_bartlett(_variances(drawn), seeds), 1 - LEVEL))

"""How sure a PR-AUC is when pairs come in families and models come from seeds (docs/statistics.md).

Average precision is computed on weighted pairs: the scores are sorted once, a resample is a column of weights. Two ways
to draw them: pairs by label (every pair for itself), and families, whose pairs come and go together. What the seeds add
is measured between the seeds. Models are compared on the same resamples, seed by seed.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlim.errors import DataError
from mlim.evaluation.pr_auc import Difference, Interval, Labels, Ranking, Scores, Weights, average_precision

CHUNK: Final = 250  # resamples in memory at a time
FEWEST: Final = 2  # families, and pairs of a label, that a spread can be measured between

Families = NDArray[np.int64]
Name = TypeVar("Name", bound=Hashable)


class JudgedPairs(NamedTuple):
    """The pairs that all models are judged on: labels (n,), and the families (n, 2) of their two items, from 0.

    Families are what the splits keep together: the components of items.parquet. `families=None`: every pair stands for
    itself.
    """

    labels: Labels
    families: Families | None = None

    @property
    def clusters(self) -> int:
        """How many independent units there are: families, or pairs where no families are known."""
        return self.labels.size if self.families is None else int(np.unique(self.families).size)


@dataclass(frozen=True)
class Resampled:
    """Average precision of one model for each of its seeds (k,), and on each resample of the pairs (k, samples)."""

    by_seed: Scores
    replicates: NDArray[np.float64]

    def minus(self, other: "Resampled") -> "Resampled":
        """The differences to a model judged on the same pairs and resamples, seed by seed."""
        return Resampled(self.by_seed - other.by_seed, self.replicates - other.replicates)


@dataclass(frozen=True)
class Effect:
    """A figure (or a difference of figures) averaged over seeds, with a t interval and what its spread is made of.

    `pairs_error` is the standard error that the choice of test pairs brings; `seeds_spread` the standard deviation
    between seeds, with `seeds_freedom` degrees of freedom (None with one seed: not known, and not in the interval);
    `p_value` is two-sided against 0.
    """

    value: float
    low: float
    high: float
    p_value: float
    standard_error: float
    freedom: float
    pairs_error: float
    seeds_spread: float | None
    seeds_freedom: float
    by_seed: tuple[float, ...]
    clusters: int

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(self.by_seed)

    @property
    def interval(self) -> Interval:
        """The value with its limits, as a figure between 0 and 1."""
        return Interval(self.value, max(self.low, 0.0), min(self.high, 1.0))

    @property
    def difference(self) -> Difference:
        """The value with its limits and p-value, as a difference of two figures."""
        return Difference(self.value, self.low, self.high, self.p_value)

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def resample(
    pairs: JudgedPairs, scorings: Mapping[Name, NDArray[np.float64]], samples: int, seed: int
) -> dict[Name, Resampled]:
    """Average precision of every model on the same resamples of the pairs.

    `scorings` maps a model to the scores (seeds, n) of its trainings. The resamples depend on `seed` and the order of
    the pairs only. `DataError` when there are too few families, or too few pairs of a label, to tell a spread from.
    """
    _check(pairs)
    ranked = {name: [Ranking(pairs.labels, one) for one in scores] for name, scores in scorings.items()}
    parts: dict[Name, list[NDArray[np.float64]]] = {name: [] for name in scorings}
    generator = np.random.default_rng(seed)
    for start in range(0, samples, CHUNK):
        weights = draw_weights(pairs, min(CHUNK, samples - start), generator)
        for name, rankings in ranked.items():
            parts[name].append(np.stack([ranking.average_precision(weights) for ranking in rankings]))
    replicates = {name: np.concatenate(found, axis=1) for name, found in parts.items()}
    if any(found.shape[1] < FEWEST for found in replicates.values()):
        raise DataError("hardly a resample of the families holds both labels: too few families to tell a spread from")
    values = {name: [average_precision(pairs.labels, one) for one in scores] for name, scores in scorings.items()}
    return {name: Resampled(np.array(values[name]), replicates[name]) for name in scorings}


def _check(pairs: JudgedPairs) -> None:
    matches = int(pairs.labels.sum())
    if min(matches, pairs.labels.size - matches) < FEWEST:
        raise DataError(f"{pairs.labels.size} test pairs with {matches} matches are too few to tell a spread from")
    if pairs.clusters < FEWEST:
        raise DataError("the test pairs are all of one family: no spread between families can be told")


def draw_weights(pairs: JudgedPairs, samples: int, generator: np.random.Generator) -> Weights:
    """Weights (n, samples) of the pairs in resamples, at most `samples` of them; both labels keep their share.

    Without families the pairs of each label are drawn with repeats. With families, families are: a pair counts as often
    as its family was drawn, a pair across two families as often as both together (the pigeonhole bootstrap, Owen 2007).
    One less than there are is drawn, so that the spread of the resamples is the unbiased one (Rao and Wu 1988).
    Resamples that lack a label are left out.
    """
    if pairs.families is None:
        return _with_shares(_drawn_pairs(pairs.labels, samples, generator), pairs.labels)
    return _with_shares(_drawn_families(pairs.families, samples, generator), pairs.labels)


def draw_units(size: int, samples: int, generator: np.random.Generator) -> Weights:
    """How often each of `size` units is in each resample (size, samples): `size` - 1 draws with repeats, as above."""
    places = generator.integers(size, size=(samples, size - 1)) + size * np.arange(samples)[:, None]
    counts = np.bincount(places.ravel(), minlength=size * samples).reshape(samples, size)
    return np.ascontiguousarray(counts.T, dtype=np.float64)


def _drawn_pairs(labels: Labels, samples: int, generator: np.random.Generator) -> Weights:
    weights = np.empty((labels.size, samples))
    for label in (0, 1):
        places = np.flatnonzero(labels == label)
        weights[places] = draw_units(places.size, samples, generator)
    return weights


def _drawn_families(families: Families, samples: int, generator: np.random.Generator) -> Weights:
    known, numbered = np.unique(families, return_inverse=True)
    first, second = numbered.reshape(families.shape).T
    counts = draw_units(known.size, samples, generator)
    crossing = (first != second)[:, None]
    return np.asarray(np.where(crossing, counts[first] * counts[second], counts[first]))


def _with_shares(weights: Weights, labels: Labels) -> Weights:
    """The resamples that hold both labels, matches and mismatches scaled to the weights they have in the test set."""
    matches, mismatches = weights[labels == 1].sum(axis=0), weights[labels == 0].sum(axis=0)
    kept = (matches > 0) & (mismatches > 0)
    positives = int(labels.sum())
    scales = np.stack([(labels.size - positives) / mismatches[kept], positives / matches[kept]])
    return np.asarray(weights[:, kept] * scales[labels])


class Spread(NamedTuple):
    """A standard deviation between seeds, and the degrees of freedom it is known with."""

    value: float
    freedom: float


def pooled_spread(by_seed: Sequence[Scores]) -> Spread | None:
    """The standard deviation between seeds of a difference of two rows, from all rows together.

    `by_seed` holds a figure (k,) of every row for the same seeds. What is left of them without the means of rows and
    seeds (randomised blocks, Fisher 1935) has (rows - 1)(k - 1) degrees of freedom: with few seeds far more than the
    k - 1 of one difference. None with fewer than two rows or seeds.
    """
    figures = np.stack(by_seed) if by_seed else np.empty((0, 0))
    freedom = (figures.shape[0] - 1) * (figures.shape[1] - 1)
    if min(figures.shape) < FEWEST:
        return None
    left = figures - figures.mean(axis=0) - figures.mean(axis=1, keepdims=True) + figures.mean()
    return Spread(float(np.sqrt(2 * np.square(left).sum() / freedom)), freedom)


def effect_of(resampled: Resampled, clusters: int, confidence: float, pooled: Spread | None = None) -> Effect:
    """The mean over seeds with a t interval that covers other test pairs and, from two seeds on, other seeds.

    The variance is that between resamples of the pairs, plus that between seeds over their number; the degrees of
    freedom are Satterthwaite's (1946), `clusters` - 1 for the first part. The spread between seeds is the `pooled` one
    of all rows, or the difference's own where that is larger: a row may be of the unsteady kind.
    """
    of_seeds, replicates = resampled.by_seed, resampled.replicates.mean(axis=0)
    value, pairs_variance = float(of_seeds.mean()), float(replicates.var(ddof=1))
    spread = _spread(of_seeds, pooled)
    seeds_variance = 0.0 if spread is None else spread.value**2 / of_seeds.size
    seeds_freedom = 0.0 if spread is None else spread.freedom
    error = float(np.sqrt(pairs_variance + seeds_variance))
    freedom = satterthwaite((pairs_variance, clusters - 1), (seeds_variance, seeds_freedom))
    low, high, p_value = t_test(value, error, freedom, confidence)
    return Effect(
        value=value,
        low=low,
        high=high,
        p_value=p_value,
        standard_error=error,
        freedom=freedom,
        pairs_error=float(np.sqrt(pairs_variance)),
        seeds_spread=None if spread is None else spread.value,
        seeds_freedom=seeds_freedom,
        by_seed=tuple(map(float, of_seeds)),
        clusters=clusters,
    )


def _spread(of_seeds: Scores, pooled: Spread | None) -> Spread | None:
    """The spread between the seeds of a difference; None with one seed."""
    if of_seeds.size < FEWEST:
        return None
    own = Spread(float(of_seeds.std(ddof=1)), of_seeds.size - 1)
    return own if pooled is None else Spread(max(own.value, pooled.value), pooled.freedom)


def satterthwaite(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of variances, each given with its own (Satterthwaite 1946)."""
    told = [(variance, freedom) for variance, freedom in parts if variance > 0]
    if not told:
        return max(1.0, *(freedom for _, freedom in parts))
    total = sum(variance for variance, _ in told)
    return float(total**2 / sum(variance**2 / freedom for variance, freedom in told))


def t_test(value: float, error: float, freedom: float, confidence: float) -> tuple[float, float, float]:
    """Interval and two-sided p-value of an estimate; one without any spread is certain: p is 1 at 0, else 0."""
    if error == 0:
        return value, value, float(value == 0)
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return value - half, value + half, float(2 * stats.t.sf(abs(value) / error, freedom))


class Compared(NamedTuple):
    """One model among several: its PR-AUC, and that minus the first model's (None for the first itself)."""

    pr_auc: Effect
    minus_first: Effect | None


def compare_all(
    pairs: JudgedPairs,
    scorings: Mapping[Name, NDArray[np.float64]],
    samples: int,
    confidence: float,
    seed: int,
    alike: Collection[Name] | None = None,
) -> dict[Name, Compared]:
    """All models beside the first of `scorings` (seeds, n), on the same resamples, seed by seed.

    The spread between seeds of the differences is pooled over the models that are `alike` (None: all); `DataError` as
    `resample`.
    """
    drawn = resample(pairs, scorings, samples, seed)
    first = next(iter(drawn))
    spread = pooled_spread([found.by_seed for name, found in drawn.items() if alike is None or name in alike])
    differences = {
        name: effect_of(found.minus(drawn[first]), pairs.clusters, confidence, spread)
        for name, found in drawn.items()
        if name != first
    }
    return {
        name: Compared(effect_of(found, pairs.clusters, confidence), differences.get(name))
        for name, found in drawn.items()
    }


def compare(
    pairs: JudgedPairs,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    samples: int,
    confidence: float,
    seed: int,
) -> Effect:
    """PR-AUC of one model minus that of another; both (seeds, n), the same seeds in the same order."""
    found = resample(pairs, {"first": first, "second": second}, samples, seed)
    return effect_of(found["first"].minus(found["second"]), pairs.clusters, confidence)

"""The uncertainty of figures when examples come in families and models from seeds (docs/statistics.md).

A metric is computed on weighted examples, and a resample is a column of weights: of pairs, whose scores are sorted once
(`resample`), or of the examples of any other task (`resample_measures`). Pairs are drawn by label (every pair for
itself) or by families, whose pairs come and go together; other examples by the units that they belong to. What the
seeds add is measured between the seeds. Models are compared on the same resamples, seed by seed.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlim.evaluation.metrics.measure import Measure
from mlim.evaluation.pr_auc import Difference, Interval, Labels, Ranking, Scores, Weights, average_precision
from mlim.evaluation.spreads import FEWEST, Pools, Spread

CHUNK: Final = 250  # resamples in memory at a time
SEEDS_AND_PAIRS: Final = 2  # dimensions of scores without one for fine-tunings
FEWEST_UNITS: Final = 10  # fewer give no interval, which would be wrong too often (docs/statistics.md)

Families = NDArray[np.int64]
Name = TypeVar("Name", bound=Hashable)


class Resampling(NamedTuple):
    """How the intervals are drawn."""

    samples: int
    confidence: float
    seed: int


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

    @property
    def units(self) -> int:
        """How many independent units there are of the rarer label: families with such a pair, or such pairs."""
        return min(self._units_of(label) for label in (0, 1))

    def _units_of(self, label: int) -> int:
        held = self.labels == label
        return int(held.sum()) if self.families is None else int(np.unique(self.families[held]).size)

    @property
    def no_interval(self) -> str:
        """Why there are too few units for an interval, as a sentence; empty where there are enough."""
        if self.units >= FEWEST_UNITS:
            return ""
        label = "matches" if self._units_of(1) <= self._units_of(0) else "mismatches"
        said = f"{self.units} {label}" if self.families is None else f"{label} of {self.units} families"
        return _no_interval(f"the test pairs hold {said}")


def _no_interval(what: str) -> str:
    return f"{what}, fewer than the {FEWEST_UNITS} that an interval needs: no interval and no verdict"


class JudgedExamples(NamedTuple):
    """What all models of a task are judged on: the unit (n,) of each example, a family or picture, from 0.

    The examples of a unit come and go together.
    """

    units: NDArray[np.int64]

    @property
    def clusters(self) -> int:
        """How many independent units there are."""
        return int(np.unique(self.units).size)

    @property
    def no_interval(self) -> str:
        """Why there are too few units for an interval, as a sentence; empty where there are enough."""
        enough = self.clusters >= FEWEST_UNITS
        return "" if enough else _no_interval(f"the test examples are of {self.clusters} independent units")

    def draw(self, samples: int, generator: np.random.Generator) -> Weights:
        """Weights (n, samples) of the examples in resamples of the units, one less than there are (`draw_units`)."""
        known, numbered = np.unique(self.units, return_inverse=True)
        return draw_units(known.size, samples, generator)[numbered]


@dataclass(frozen=True)
class Resampled:
    """A figure of one model for each of its seeds (k,), and on each resample of the examples (k, samples).

    `why` says why there are no resamples; empty where there are. `units` is how many independent units hold an example
    of what the figure is about, where these are not all.
    """

    by_seed: Scores
    replicates: NDArray[np.float64]
    why: str = ""
    units: int | None = None

    def minus(self, other: "Resampled") -> "Resampled":
        """The differences to a model judged on the same pairs and resamples, seed by seed."""
        why = self.why or other.why
        units = fewest(self.units, other.units)
        return Resampled(self.by_seed - other.by_seed, self.replicates - other.replicates, why, units)


def fewest(*units: int | None) -> int | None:
    """The smallest number of units; None where all of them are all units."""
    return min((one for one in units if one is not None), default=None)


@dataclass(frozen=True)
class Effect:
    """A figure (or a difference of figures) averaged over seeds, with a t interval and what its spread is made of.

    `pairs_error` is the standard error that the choice of test pairs brings; `seeds_spread` the standard deviation
    between seeds, with `seeds_freedom` degrees of freedom (None with one seed: not known, and not in the interval);
    `pooled` names the variants whose seeds this spread is measured between, none where it is the figure's own alone;
    `p_value` is two-sided against 0. Where there are too few units for an interval, `why` says so, and the limits, the
    p-value and what they are made of are NaN: they separate nothing.
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
    why: str = ""
    pooled: tuple[Hashable, ...] = ()

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(self.by_seed)

    @property
    def interval(self) -> Interval:
        """The value with its limits, as a figure between 0 and 1."""
        return self.interval_up_to(1.0)

    def interval_up_to(self, most: float) -> Interval:
        """The value with its limits, as a figure between 0 and `most`."""
        ends = (None, None) if self.why else (max(self.low, 0.0), min(self.high, most))
        return Interval(self.value, *ends)

    @property
    def difference(self) -> Difference:
        """The value with its limits and p-value, as a difference of two figures."""
        ends = (None, None, None) if self.why else (self.low, self.high, self.p_value)
        return Difference(self.value, *ends)

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def resample(
    pairs: JudgedPairs, scorings: Mapping[Name, NDArray[np.float64]], samples: int, seed: int
) -> dict[Name, Resampled]:
    """Average precision of every model on the same resamples of the pairs.

    `scorings` maps a model to the scores (seeds, n) of its trainings, or (seeds, fine-tunings, n): a seed's figure is
    then the mean of those of its fine-tunings, so that the spread between seeds holds both parts. The resamples depend
    on `seed` and the order of the pairs only. With too few units (`JudgedPairs.no_interval`) there are none, and
    `Resampled.why` says so.
    """
    values = {
        name: np.array(
            [np.mean([average_precision(pairs.labels, one) for one in of_seed]) for of_seed in _tunings(scores)]
        )
        for name, scores in scorings.items()
    }
    if why := pairs.no_interval:
        return {name: Resampled(found, np.empty((found.size, 0)), why) for name, found in values.items()}
    replicates = _replicates(pairs, scorings, samples, seed)
    if any(found.shape[1] < FEWEST for found in replicates.values()):
        why = "hardly a resample of the families holds both labels: no interval and no verdict"
    return {name: Resampled(values[name], replicates[name], why) for name in scorings}


def _tunings(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores (seeds, fine-tunings, n), whether there are several fine-tunings of a seed or one."""
    return scores[:, None] if scores.ndim == SEEDS_AND_PAIRS else scores


def _replicates(
    pairs: JudgedPairs, scorings: Mapping[Name, NDArray[np.float64]], samples: int, seed: int
) -> dict[Name, NDArray[np.float64]]:
    ranked = {
        name: [[Ranking(pairs.labels, one) for one in of_seed] for of_seed in _tunings(scores)]
        for name, scores in scorings.items()
    }
    parts: dict[Name, list[NDArray[np.float64]]] = {name: [] for name in scorings}
    generator = np.random.default_rng(seed)
    for start in range(0, samples, CHUNK):
        weights = draw_weights(pairs, min(CHUNK, samples - start), generator)
        for name, rankings in ranked.items():
            drawn = [[ranking.average_precision(weights) for ranking in of_seed] for of_seed in rankings]
            parts[name].append(np.asarray(drawn).mean(axis=1))
    return {name: np.concatenate(found, axis=1) for name, found in parts.items()}


def resample_measures(
    examples: JudgedExamples, measures: Mapping[Name, Sequence[Sequence[Measure]]], samples: int, seed: int
) -> list[dict[Name, Resampled]]:
    """For each figure of a task, that of every model on the same resamples of the examples.

    `measures` maps a model to what each fine-tuning of each of its seeds answered; a seed's figure is the mean over its
    fine-tunings. A resample that a figure of any model says nothing of (NaN) is left out of that figure for all.
    """
    plain = {name: _seed_means(found, np.ones((examples.units.size, 1)))[..., 0] for name, found in measures.items()}
    drawn: dict[Name, list[NDArray[np.float64]]] = {name: [] for name in measures}
    generator = np.random.default_rng(seed)
    for start in range(0, 0 if examples.no_interval else samples, CHUNK):
        weights = examples.draw(min(CHUNK, samples - start), generator)
        for name, found in measures.items():
            drawn[name].append(_seed_means(found, weights))
    nothing = {name: np.empty((*found.shape, 0)) for name, found in plain.items()}
    replicates = {name: np.concatenate([nothing[name], *parts], axis=2) for name, parts in drawn.items()}
    held = _units_held(examples, measures)
    return [
        _of_figure(figure, plain, replicates, examples.no_interval, int(held[figure])) for figure in range(len(held))
    ]


def _units_held(examples: JudgedExamples, measures: Mapping[Name, Sequence[Sequence[Measure]]]) -> NDArray[np.int64]:
    """How many units hold an example of what each figure (figures,) is about, whatever the model."""
    held = [[np.unique(examples.units[flags]).size for flags in found[0][0].about()] for found in measures.values()]
    return np.asarray(np.min(held, axis=0), dtype=np.int64)


def _seed_means(measures: Sequence[Sequence[Measure]], weights: Weights) -> NDArray[np.float64]:
    """Figures (seeds, figures, samples) of a model, averaged over the fine-tunings of each seed."""
    return np.stack([np.mean([one.figures(weights) for one in of_seed], axis=0) for of_seed in measures])


def _of_figure(
    figure: int,
    plain: Mapping[Name, NDArray[np.float64]],
    replicates: Mapping[Name, NDArray[np.float64]],
    why: str,
    units: int,
) -> dict[Name, Resampled]:
    """One figure of every model, on the resamples in which all models have it; `units` hold an example of it."""
    known = np.all([np.isfinite(found[:, figure]).all(axis=0) for found in replicates.values()], axis=0)
    if not why and known.sum() < FEWEST:
        why = "hardly a resample holds an example of this kind: no interval and no verdict"
    if not why and units < FEWEST_UNITS:
        why = _no_interval(f"{units} independent units hold an example of this kind")
    return {
        name: Resampled(plain[name][:, figure], found[:, figure][:, known], why, units)
        for name, found in replicates.items()
    }


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
    across = (first != second)[:, None]
    return np.asarray(np.where(across, counts[first] * counts[second], counts[first]))


def _with_shares(weights: Weights, labels: Labels) -> Weights:
    """The resamples that hold both labels, matches and mismatches scaled to the weights they have in the test set."""
    matches, mismatches = weights[labels == 1].sum(axis=0), weights[labels == 0].sum(axis=0)
    kept = (matches > 0) & (mismatches > 0)
    positives = int(labels.sum())
    scales = np.stack([(labels.size - positives) / mismatches[kept], positives / matches[kept]])
    return np.asarray(weights[:, kept] * scales[labels])


def effect_of(resampled: Resampled, clusters: int, confidence: float, pooled: Spread | None = None) -> Effect:
    """The mean over seeds with a t interval that covers other test pairs and, from two seeds on, other seeds.

    The variance is that between resamples of the pairs, plus that between seeds over their number; the degrees of
    freedom are Satterthwaite's (1946), `clusters` - 1 for the first part. The spread between seeds is the `pooled` one
    of variants that are alike in it (None: there are none), or the difference's own where that is larger: of few seeds
    no test can be sure. With fewer than FEWEST_UNITS `clusters`, or without resamples, there is no interval.
    """
    of_seeds, clusters = resampled.by_seed, min(clusters, clusters if resampled.units is None else resampled.units)
    spread = _spread(of_seeds, pooled)
    why = resampled.why or (
        _no_interval(f"only {clusters} families or items are independent") if clusters < FEWEST_UNITS else ""
    )
    if why:
        return _without_interval(of_seeds, spread, clusters, why)
    value, pairs_variance = float(of_seeds.mean()), float(resampled.replicates.mean(axis=0).var(ddof=1))
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
        pooled=() if spread is None else spread.variants,
    )


def _without_interval(of_seeds: Scores, spread: Spread | None, clusters: int, why: str) -> Effect:
    unknown, own = float("nan"), spread or Spread(0.0, 0.0)
    return Effect(
        value=float(of_seeds.mean()),
        low=unknown,
        high=unknown,
        p_value=unknown,
        standard_error=unknown,
        freedom=unknown,
        pairs_error=unknown,
        seeds_spread=None if spread is None else own.value,
        seeds_freedom=own.freedom,
        by_seed=tuple(map(float, of_seeds)),
        clusters=clusters,
        why=why,
    )


def _spread(of_seeds: Scores, pooled: Spread | None) -> Spread | None:
    """The spread between the seeds of a difference; None with one seed."""
    if of_seeds.size < FEWEST:
        return None
    own = Spread(float(of_seeds.std(ddof=1)), of_seeds.size - 1)
    return own if pooled is None else pooled._replace(value=max(own.value, pooled.value))


def satterthwaite(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of variances, each given with its own (Satterthwaite 1946)."""
    known = [(variance, freedom) for variance, freedom in parts if variance > 0]
    if not known:
        return max(1.0, *(freedom for _, freedom in parts))
    total = sum(variance for variance, _ in known)
    return float(total**2 / sum(variance**2 / freedom for variance, freedom in known))


def t_test(value: float, error: float, freedom: float, confidence: float) -> tuple[float, float, float]:
    """Interval and two-sided p-value of an estimate; one without any spread is certain: p is 1 at 0, else 0."""
    if error == 0:
        return value, value, float(value == 0)
    half = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    return value - half, value + half, float(2 * stats.t.sf(abs(value) / error, freedom))


class Compared(NamedTuple):
    """One model among several: its figure, and that minus the first model's (None for the first itself)."""

    figure: Effect
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

    The spread between seeds of the differences is pooled over those of the models in `alike` (None: all) that a test
    does not tell apart (`Pools`).
    """
    return compare_drawn(resample(pairs, scorings, samples, seed), pairs.clusters, confidence, alike)


def compare_drawn(
    drawn: Mapping[Name, Resampled], clusters: int, confidence: float, alike: Collection[Name] | None = None
) -> dict[Name, Compared]:
    """All models beside the first of `drawn`, from one figure of theirs on the same resamples; as `compare_all`."""
    first = next(iter(drawn))
    pools = Pools({name: found.by_seed for name, found in drawn.items() if alike is None or name in alike})
    differences = {
        name: effect_of(found.minus(drawn[first]), clusters, confidence, pools.between(first, name))
        for name, found in drawn.items()
        if name != first
    }
    return {
        name: Compared(effect_of(found, clusters, confidence), differences.get(name)) for name, found in drawn.items()
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

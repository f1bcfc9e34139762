"""From evidence to verdicts: is each claim of the paper supported, contradicted, not separated or not measured?

Every claim has one p-value, that of the conclusion it comes nearest to; these are corrected together (Holm). A claim of
several parts is supported by its weakest part (intersection-union test, Berger 1982) and contradicted by any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, assert_never

import numpy as np

from mlim.evaluation.evidence import Evidence
from mlim.evaluation.multiple import holm, p_above, p_below, p_equivalent, p_outside
from mlim.evaluation.power import Needed, needed
from mlim.evaluation.resampling import Effect, Resampled, effect_of, resample
from mlim.evaluation.spreads import Pools
from mlim.evaluation.task_evidence import TaskEvidence
from mlim.references.claims import Claim, Curves, Harm, Part, Reading, TaskVariants, Variants

Verdict = Literal["supported", "not separated", "contradicted", "not measured"]

MINUS_KEYS: Final = {
    ("random", "own"): "random_minus_own",
    ("empty", "own"): "empty_minus_own",
    ("random", "empty"): "random_minus_empty",
}
HARM_KEY: Final = "harm_difference"
# Of an effect, in the probe's summary beside the difference itself: what its spread is made of, for planning.
ERRORS: Final = ("standard_error", "freedom", "pairs_error", "seeds_freedom", "clusters")


class Settings(NamedTuple):
    """The confidence level, and the difference below which two models count as equal (`margin`)."""

    samples: int
    confidence: float
    seed: int
    margin: float

    @property
    def alpha(self) -> float:
        """The accepted error rate over all claims together."""
        return 1 - self.confidence


@dataclass(frozen=True)
class Measured:
    """One part of a claim: the difference with its interval, and the p-values for and against the claim.

    `effect` is None for a probe of an earlier version; `size` is the number of pairs (for curves of items, for tasks of
    their examples) that it was measured on; `where` is for curves: the masking probability at which the claim is
    weakest. `by_seed` is the difference for each seed, `seeds_spread` the standard deviation between seeds, None with
    one.
    """

    part: Part
    value: float
    low: float
    high: float
    p_for: float
    p_against: float
    by_seed: tuple[float, ...]
    seeds_spread: float | None
    effect: Effect | None = None
    where: float | None = None
    size: int = 0


@dataclass(frozen=True)
class Missing:
    """One part of a claim that was not measured, and why."""

    part: Part
    why: str


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict; `p_value` is corrected for the number of claims, `needed` is there where it was not
    separated."""

    claim: Claim
    verdict: Verdict
    measured: tuple[Measured, ...]
    missing: tuple[Missing, ...]
    p_value: float | None
    needed: Needed | None = None

    @property
    def weakest(self) -> Measured | None:
        """The measured part with the weakest support for the claim."""
        return max(self.measured, key=lambda each: (each.p_for, -each.p_against), default=None)


def judge(evidence: Evidence, settings: Settings, claims: Sequence[Claim]) -> tuple[Judged, ...]:
    """A verdict for every claim, in their order."""
    resampled, evidence = _resampled(evidence, settings, claims)
    parts = [[_measure(part, claim.reading, evidence, resampled, settings) for part in claim.parts] for claim in claims]
    found = [tuple(part for part in of_claim if isinstance(part, Measured)) for of_claim in parts]
    lacking = [tuple(part for part in of_claim if isinstance(part, Missing)) for of_claim in parts]
    tested = [place for place, measured in enumerate(found) if measured]
    corrected = holm([min(_for(found[at], lacking[at]), _against(found[at])) for at in tested])
    p_values = dict(zip(tested, corrected, strict=True))
    alpha = settings.alpha / max(len(tested), 1)
    return tuple(
        _judged(claim, found[at], lacking[at], p_values.get(at), settings, alpha) for at, claim in enumerate(claims)
    )


def _for(measured: Sequence[Measured], missing: Sequence[Missing]) -> float:
    return 1.0 if missing else max(each.p_for for each in measured)


def _against(measured: Sequence[Measured]) -> float:
    return min(1.0, len(measured) * min(each.p_against for each in measured))


def _judged(
    claim: Claim,
    measured: tuple[Measured, ...],
    missing: tuple[Missing, ...],
    p_value: float | None,
    settings: Settings,
    alpha: float,
) -> Judged:
    verdict = _verdict(measured, missing, p_value, settings.alpha)
    judged = Judged(claim, verdict, measured, missing, p_value)
    weakest = judged.weakest
    if verdict != "not separated" or weakest is None or weakest.effect is None:
        return judged
    takes = _needed(claim, weakest.effect, settings, weakest.size, alpha)
    return Judged(claim, verdict, measured, missing, p_value, takes)


def _verdict(measured: Sequence[Measured], missing: Sequence[Missing], p_value: float | None, alpha: float) -> Verdict:
    if p_value is None:
        return "not measured"
    if p_value < alpha:
        return "supported" if _for(measured, missing) <= _against(measured) else "contradicted"
    return "not measured" if missing else "not separated"


def _needed(claim: Claim, effect: Effect, settings: Settings, size: int, alpha: float) -> Needed:
    """What it takes to separate the difference from 0, or from the nearer end of the margin."""
    if claim.reading == "better":
        return needed(effect, size, alpha)
    ends = (-settings.margin, settings.margin) if claim.reading == "equivalent" else (-settings.margin,)
    return needed(effect, size, 2 * alpha, min(abs(effect.value - end) for end in ends))  # one-sided tests


def _resampled(
    evidence: Evidence, settings: Settings, claims: Sequence[Claim]
) -> tuple[dict[tuple[str, int], Resampled], Evidence]:
    """Every training that a claim refers to, on the same resamples of the pairs, by variant and seed.

    Where the pairs are too few, the evidence is returned without them, with the reason.
    """
    parts = [part for claim in claims for part in claim.parts if isinstance(part, Variants)]
    wanted = {variant for part in parts for variant in (part.first, part.second)} & evidence.variants.keys()
    trained = [(name, seed) for name in wanted for seed in evidence.variants[name].by_seed]
    scores = {(name, seed): evidence.variants[name].at((seed,)) for name, seed in trained}
    if evidence.pairs is None or not scores:
        return {}, evidence
    found = resample(evidence.pairs, scores, settings.samples, settings.seed)
    why = next((one.why for one in found.values() if one.why), "")
    return ({}, replace(evidence, pairs=None, too_few=why)) if why else (found, evidence)


def _measure(
    part: Part,
    reading: Reading,
    evidence: Evidence,
    resampled: Mapping[tuple[str, int], Resampled],
    settings: Settings,
) -> Measured | Missing:
    match part:
        case Variants():
            return _measure_variants(part, reading, evidence, resampled, settings)
        case TaskVariants():
            return _measure_task(part, reading, evidence.tasks.get(part.task), settings)
        case Curves():
            return _measure_curves(part, evidence.probe)
        case Harm():
            return _measure_harm(part, evidence.probe)
        case _:
            assert_never(part)


def _measure_variants(
    part: Variants,
    reading: Reading,
    evidence: Evidence,
    resampled: Mapping[tuple[str, int], Resampled],
    settings: Settings,
) -> Measured | Missing:
    why = _why_not(part, evidence)
    if why or evidence.pairs is None:
        return Missing(part, why)
    seeds = common_seeds(part, evidence)
    first, second = (_stacked([resampled[variant, seed] for seed in seeds]) for variant in (part.first, part.second))
    spread = _pools(resampled, seeds).between(part.first, part.second)
    effect = effect_of(first.minus(second), evidence.pairs.clusters, settings.confidence, spread)
    return _judged_effect(part, reading, effect, settings, evidence.pairs.labels.size)


def _judged_effect(part: Part, reading: Reading, effect: Effect, settings: Settings, size: int) -> Measured:
    p_for, p_against = _p_values(effect, reading, settings.margin)
    ends = (effect.value, effect.low, effect.high)
    return Measured(part, *ends, p_for, p_against, effect.by_seed, effect.seeds_spread, effect, size=size)


def _measure_task(
    part: TaskVariants, reading: Reading, found: TaskEvidence | None, settings: Settings
) -> Measured | Missing:
    if found is None:
        return Missing(part, f"no variant was fine-tuned to {part.task}")
    if why := _why_no_comparison(part, found):
        return Missing(part, why)
    effect = found.difference(part.figure, part.first, part.second, settings.confidence)
    if effect is None:
        return Missing(part, _no_common_seed(part))
    why = effect.why or found.why_not_learnt(part.figure, settings.confidence)
    return Missing(part, why) if why else _judged_effect(part, reading, effect, settings, found.examples)


def _why_no_comparison(part: TaskVariants, found: TaskEvidence) -> str:
    if part.figure not in found.drawn:
        return f"nothing here is judged by {part.figure}"
    if absent := [f"`{variant}`" for variant in (part.first, part.second) if variant not in found.variants]:
        return _not_run(absent)
    if not found.same_budget(part.first, part.second):
        return _unequal(part)
    return ""


def _not_run(absent: Sequence[str]) -> str:
    return f"variant {absent[0]} was not run" if len(absent) == 1 else f"variants {' and '.join(absent)} were not run"


def _no_common_seed(part: Variants | TaskVariants) -> str:
    return f"variants `{part.first}` and `{part.second}` have no seed in common"


def _unequal(part: Variants | TaskVariants) -> str:
    return f"variants `{part.first}` and `{part.second}` were trained on unequal budgets"


def _pools(resampled: Mapping[tuple[str, int], Resampled], seeds: tuple[int, ...]) -> Pools[str]:
    """The variants that were trained with each of these seeds, in groups of like spread between them."""
    variants = dict.fromkeys(variant for variant, _ in sorted(resampled))
    complete = [variant for variant in variants if all((variant, seed) in resampled for seed in seeds)]
    return Pools({name: np.concatenate([resampled[name, seed].by_seed for seed in seeds]) for name in complete})


def common_seeds(part: Variants, evidence: Evidence) -> tuple[int, ...]:
    """The seeds with which both variants were trained."""
    first, second = (evidence.variants[variant].by_seed for variant in (part.first, part.second))
    return tuple(sorted(first.keys() & second.keys()))


def _why_not(part: Variants, evidence: Evidence) -> str:
    if evidence.pairs is None:
        return evidence.too_few or "there are no test pairs"
    absent = [f"`{variant}`" for variant in (part.first, part.second) if variant not in evidence.variants]
    if absent:
        return _not_run(absent)
    if not common_seeds(part, evidence):
        return _no_common_seed(part)
    if not evidence.variants[part.first].same_budget(evidence.variants[part.second]):
        return _unequal(part)
    return ""


def _stacked(found: Sequence[Resampled]) -> Resampled:
    return Resampled(np.concatenate([one.by_seed for one in found]), np.concatenate([one.replicates for one in found]))


def _p_values(effect: Effect, reading: Reading, margin: float) -> tuple[float, float]:
    """P-values for and against a claim about one difference."""
    if reading == "equivalent":
        return p_equivalent(effect, margin), p_outside(effect, margin)
    if reading == "no worse":
        return p_above(effect, -margin), p_below(effect, -margin)
    return _directed(effect.value, effect.p_value)


def _directed(value: float, p_value: float) -> tuple[float, float]:
    """A two-sided p-value as one for "above 0" and one for "below 0"."""
    return (p_value if value > 0 else 1.0), (p_value if value < 0 else 1.0)


def _measure_curves(part: Curves, probe: Mapping[str, Any]) -> Measured | Missing:
    figure = probe.get(part.figure)
    if figure is None or figure.get("skipped") is not None:
        return Missing(part, f"{part.figure} was not probed" if figure is None else str(figure["skipped"]))
    key = MINUS_KEYS[part.more, part.less]
    points = [(point["probability"], point[key]) for point in figure.get("points", ()) if key in point]
    if not points:
        return Missing(part, f"the probe did not compare the {part.more} with the {part.less} partner")
    if why := next((point["no_interval"] for _, point in points if point.get("no_interval")), None):
        return Missing(part, str(why))
    directed = [_directed(point["value"], point["p_value"]) for _, point in points]
    weakest = max(range(len(points)), key=lambda at: (directed[at][0], -directed[at][1], -points[at][1]["value"]))
    probability, least = points[weakest]
    against = min(1.0, len(points) * min(p_against for _, p_against in directed))
    measured = _probed(part, least, directed[weakest][0], against, int(figure.get("items", 0)))
    return replace(measured, where=float(probability))


def _measure_harm(part: Harm, probe: Mapping[str, Any]) -> Measured | Missing:
    found = probe.get(HARM_KEY)
    if found is None:
        return Missing(part, "the probe did not compare the two harms")
    if found.get("no_interval"):
        return Missing(part, str(found["no_interval"]))
    items = int((probe.get("figure2b") or {}).get("items", 0))
    return _probed(part, found, *_directed(found["value"], found["p_value"]), items)


def _probed(part: Part, found: Mapping[str, Any], p_for: float, p_against: float, size: int) -> Measured:
    """One difference of the probe's summary; an older one is of one seed or has no errors."""
    value, low, high = found["value"], found["low"], found["high"]
    by_seed, spread = tuple(found.get("by_seed", (value,))), found.get("seeds_spread")
    effect = None
    if found.keys() >= set(ERRORS):
        figures = {name: found[name] for name in ("value", "low", "high", "p_value", *ERRORS)}
        effect = Effect(**figures, seeds_spread=spread, by_seed=by_seed)
    return Measured(part, value, low, high, p_for, p_against, by_seed, spread, effect, size=size)

"""Does pre-training pay? PR-AUC with and without it by the number of labelled pairs: the label-efficiency curve.

A point is one number of training pairs (`finetune.max_pairs`), with everything else, budgets too, as in the recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlim.evaluation.evidence import Evidence, TrainedVariant
from mlim.evaluation.pr_auc import Difference, Interval
from mlim.evaluation.resampling import Resampling, effect_of, resample
from mlim.evaluation.spreads import Pools

FEWEST_POINTS: Final = 2  # of a curve

Place = tuple[int, str]  # the number of pairs, and the variant


@dataclass(frozen=True)
class LabelPoint:
    """PR-AUC of the main variant and of its like without pre-training, from the same number of training pairs.

    All are means over `seeds` with an interval over families and seeds; the difference is with minus without.
    """

    pairs: int
    seeds: int
    pretrained: Interval
    unpretrained: Interval
    difference: Difference

    def plain(self) -> dict[str, Any]:
        """The point as JSON knows it."""
        return {
            "pairs": self.pairs,
            "seeds": self.seeds,
            "pretrained": self.pretrained._asdict(),
            "unpretrained": self.unpretrained._asdict(),
            "difference": self.difference._asdict(),
        }


def label_curve(
    evidence: Evidence, trained: Mapping[str, TrainedVariant], lines: tuple[str, str], settings: Resampling
) -> tuple[LabelPoint, ...]:
    """The points of the curve that `evidence` holds, from few pairs to many; none where there are fewer than two.

    `lines` are the variant with pre-training and the one without. Their own trainings count, and those of runs that
    differ from them in nothing but the number of pairs. All points have the seeds that all of them were trained with.
    """
    if evidence.pairs is None or not set(lines) <= trained.keys():
        return ()
    places: dict[Place, str] = {}
    for name, variant in trained.items():
        if name in evidence.variants and variant.name in lines and _is_point(variant, trained[variant.name]):
            most = evidence.training_pairs if variant.max_pairs is None else variant.max_pairs
            places.setdefault((min(most, evidence.training_pairs), variant.name), name)
    numbers = sorted({number for number, _ in places if all((number, variant) in places for variant in lines)})
    wanted = {(number, variant): evidence.variants[places[number, variant]] for number in numbers for variant in lines}
    seeds = tuple(
        seed for seed in trained[lines[0]].seeds if all(seed in variant.by_seed for variant in wanted.values())
    )
    if len(numbers) < FEWEST_POINTS or not seeds:
        return ()
    clusters, confidence = evidence.pairs.clusters, settings.confidence
    scores = {place: variant.at(seeds) for place, variant in wanted.items()}
    drawn = resample(evidence.pairs, scores, settings.samples, settings.seed)
    pools = Pools({place: found.by_seed for place, found in drawn.items()})

    def point(number: int) -> LabelPoint:
        first, second = ((number, variant) for variant in lines)
        apart, spread = drawn[first].minus(drawn[second]), pools.between(first, second)
        return LabelPoint(
            number,
            len(seeds),
            effect_of(drawn[first], clusters, confidence).interval,
            effect_of(drawn[second], clusters, confidence).interval,
            effect_of(apart, clusters, confidence, spread).difference,
        )

    return tuple(point(number) for number in numbers)


def _is_point(variant: TrainedVariant, own: TrainedVariant) -> bool:
    """Whether what was trained is the judged recipe's own variant, or that in all but the number of training pairs."""
    return variant.own or (variant.max_pairs is not None and variant.key_of_any_pairs == own.key_of_any_pairs)

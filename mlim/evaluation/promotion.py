"""Whether a version replaces the champion: both on the same pairs, each figure against a limit of the recipe.

Pure functions of what two versions answered, and of what is recorded about the newer one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.config import Config
from mlim.evaluation.gate import Objection
from mlim.evaluation.pr_auc import Labels, Scores
from mlim.evaluation.resampling import JudgedPairs, Resampling, compare_all
from mlim.evaluation.threshold import calibration_error
from mlim.recipe.evaluate import PromotionConfig

VALIDATION, CALIBRATION, ROLLED_BACK = "validation", "calibration", "rolled-back"
STANDING: Final = (VALIDATION, CALIBRATION, ROLLED_BACK)  # whoever is champion
NOT_BETTER, CATEGORY, SLOW = "not-better", "category", "slow"
PASSED: Final = ("passed", "accepted")  # how the validation of data begins that may be used


class Answers(NamedTuple):
    """What a version answered: probabilities (n,), decisions (n,), and the median milliseconds of one pair alone."""

    probability: Scores
    match: NDArray[np.bool_]
    milliseconds: float


class Figures(Config):
    """What one version reaches; `low` and `high` are None where there are too few families for an interval."""

    version: str
    pr_auc: float
    low: float | None
    high: float | None
    precision: float
    recall: float
    calibration_error: float
    milliseconds: float


class Difference(Config):
    """The first version's PR-AUC minus the second's, on the same resamples; `why` there is no interval."""

    value: float
    low: float | None
    high: float | None
    why: str


class CategoryFigures(Config):
    """The pairs of a category, and the shares that both versions decide right."""

    category: str
    pairs: int
    first_right: float
    second_right: float

    @property
    def drop(self) -> float:
        """How much the first version is worse."""
        return self.second_right - self.first_right


class Comparison(Config):
    """Two versions on the same pairs, categories from the greatest drop to the greatest gain.

    `left_out` counts test pairs that one of them had seen in training; `unknown` names versions that do not say what
    they had seen, so that some of their pairs may count that should not.
    """

    first: Figures
    second: Figures
    pairs: int
    left_out: int
    unknown: tuple[str, ...]
    difference: Difference
    categories: tuple[CategoryFigures, ...]


class Decision(Config):
    """Who decided what about a version, when and why; `forced` is what a person said against the reasons.

    `objections` stand against the version whoever is champion, `against` are those of the comparison with the champion.
    """

    model: str
    version: str
    time: str
    by: str
    promoted: bool
    why: str
    forced: str | None = None
    objections: tuple[Objection, ...] = ()
    against: tuple[Objection, ...] = ()
    comparison: Comparison | None = None
    test_pairs_sha256: str | None = None
    policy: PromotionConfig = PromotionConfig()


def compare_answers(
    pairs: JudgedPairs,
    categories: Sequence[str],
    versions: tuple[str, str],
    answers: tuple[Answers, Answers],
    how: Resampling,
    left_out: int = 0,
    unknown: Sequence[str] = (),
) -> Comparison:
    """The figures of two versions and their differences, from their answers to the same `pairs`.

    `categories` (n,) are those of the pairs.
    """
    scorings = {"second": answers[1].probability[None], "first": answers[0].probability[None]}
    compared = compare_all(pairs, scorings, *how)
    minus = compared["first"].minus_first
    if minus is None:
        raise AssertionError("the first of two has a difference")
    figures = [
        _figures(version, pairs.labels, found, compared[name].figure.interval._asdict())
        for name, version, found in zip(("first", "second"), versions, answers, strict=True)
    ]
    return Comparison(
        first=figures[0],
        second=figures[1],
        pairs=pairs.labels.size,
        left_out=left_out,
        unknown=tuple(unknown),
        difference=Difference(value=minus.value, low=minus.difference.low, high=minus.difference.high, why=minus.why),
        categories=_categories(pairs.labels, categories, *answers),
    )


def _figures(version: str, labels: Labels, found: Answers, interval: dict[str, Any]) -> Figures:
    right = int((found.match & (labels == 1)).sum())
    return Figures(
        version=version,
        pr_auc=interval["value"],
        low=interval["low"],
        high=interval["high"],
        precision=right / max(int(found.match.sum()), 1),
        recall=right / max(int((labels == 1).sum()), 1),
        calibration_error=calibration_error(found.probability, labels),
        milliseconds=found.milliseconds,
    )


def _categories(
    labels: Labels, categories: Sequence[str], first: Answers, second: Answers
) -> tuple[CategoryFigures, ...]:
    named, wanted = np.asarray(categories, dtype=object), labels == 1
    right = first.match == wanted, second.match == wanted
    found = [
        CategoryFigures(
            category=str(category),
            pairs=int((named == category).sum()),
            first_right=float(right[0][named == category].mean()),
            second_right=float(right[1][named == category].mean()),
        )
        for category in dict.fromkeys(named)
    ]
    return tuple(sorted(found, key=lambda each: (-each.drop, each.category)))


def standing_objections(
    validation: str, error: float, rolled_back: str | None, limits: PromotionConfig
) -> list[Objection]:
    """What stands against a version whoever is champion: its data, its calibration, that a person took it back."""
    return [*_validation(validation, limits), *_calibration(error, limits), *_rolled_back(rolled_back)]


def _validation(validation: str, limits: PromotionConfig) -> Iterator[Objection]:
    if limits.validated and not validation.startswith(PASSED):
        yield Objection(
            VALIDATION,
            f"The validation of the data that it learned from is `{validation}`: run `mlim validate`, then train on "
            "what passed.",
        )


def _calibration(error: float, limits: PromotionConfig) -> Iterator[Objection]:
    if error > limits.max_calibration_error:
        yield Objection(
            CALIBRATION,
            f"Its probabilities are off by {error:.3f} on average (limit {limits.max_calibration_error:g}): the "
            "validation pairs, which calibrate it, are too few or unlike the test pairs.",
        )


def _rolled_back(why: str | None) -> Iterator[Objection]:
    if why is not None:
        yield Objection(ROLLED_BACK, f"A person took it back when it was champion ({why}): train another one.")


def comparison_objections(found: Comparison, limits: PromotionConfig) -> list[Objection]:
    """Why the first version does not replace the second one, the champion; empty where it does."""
    times = found.first.milliseconds, found.second.milliseconds
    return [*_not_better(found, limits), *_dropped(found, limits), *slow_objections(*times, limits)]


def measured(found: Comparison) -> str:
    """The difference of a comparison in words."""
    difference = found.difference
    ends = "" if difference.low is None else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    return (
        f"PR-AUC {difference.value:+.4f}{ends} against champion version {found.second.version} on the same "
        f"{found.pairs} test pairs"
    )


def _not_better(found: Comparison, limits: PromotionConfig) -> Iterator[Objection]:
    difference = found.difference
    if difference.low is None:
        yield Objection(NOT_BETTER, f"{measured(found)}; {difference.why}, compare by hand")
    elif difference.low <= limits.min_lead:
        least = "" if limits.min_lead == 0 else f" by more than {limits.min_lead:+g}"
        yield Objection(NOT_BETTER, f"{measured(found)}: not significantly better{least}")


def _dropped(found: Comparison, limits: PromotionConfig) -> Iterator[Objection]:
    for each in found.categories:
        if each.pairs >= limits.min_category_pairs and each.drop > limits.max_category_drop:
            yield Objection(
                CATEGORY,
                f"in category “{each.category}” it decides {_percent(each.first_right)} of {each.pairs} pairs right, "
                f"the champion {_percent(each.second_right)} (the fall may be {_percent(limits.max_category_drop)})",
            )


def slow_objections(own: float, before: float | None, limits: PromotionConfig) -> Iterator[Objection]:
    """What stands against the median milliseconds of a pair; `before` are the champion's, if there is one."""
    if limits.max_milliseconds is not None and own > limits.max_milliseconds:
        yield Objection(SLOW, f"one pair takes it {own:.1f} ms (limit {limits.max_milliseconds:g} ms)")
    if before is not None and limits.max_slowdown is not None and own > limits.max_slowdown * before:
        yield Objection(
            SLOW, f"one pair takes it {own:.1f} ms, the champion {before:.1f} ms (limit {limits.max_slowdown:g} times)"
        )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

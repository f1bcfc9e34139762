"""How numbers become text: the one place that decides decimals, signs and what a missing value looks like."""

import math
from collections.abc import Collection, Mapping
from typing import Final

MISSING: Final = "\u2013"  # en dash
MINUS: Final = "\u2212"  # as wide as the plus sign
SMALLEST_P: Final = 0.001
MINUTE: Final = 60  # seconds
HOUR: Final = 60  # minutes

Number = float | int | None


def is_missing(value: Number) -> bool:
    """Whether there is no number to show (None, NaN)."""
    return value is None or math.isnan(value)


def score(value: Number) -> str:
    """A PR-AUC, a precision, a loss: three decimals."""
    return MISSING if value is None or math.isnan(value) else f"{value:.3f}".replace("-", MINUS)


def interval(value: Number, low: Number, high: Number) -> str:
    """A score with its interval: `0.822 [0.803, 0.841]`."""
    if is_missing(value) or is_missing(low) or is_missing(high):
        return score(value)
    return f"{score(value)} [{score(low)}, {score(high)}]"


def ends(low: Number, high: Number) -> str:
    """The ends of an interval: `0.803 to 0.841`; a dash where there is none."""
    return MISSING if is_missing(low) or is_missing(high) else f"{score(low)} to {score(high)}"


def signed(value: Number) -> str:
    """A difference of two scores with its sign: `+0.023`."""
    return MISSING if value is None or math.isnan(value) else f"{value:+.3f}".replace("-", MINUS)


def signed_interval(value: Number, low: Number, high: Number) -> str:
    """A difference with its interval: `+0.023 [+0.004, +0.041]`."""
    if is_missing(value) or is_missing(low) or is_missing(high):
        return signed(value)
    return f"{signed(value)} [{signed(low)}, {signed(high)}]"


def spread(value: Number, seeds: int) -> str:
    """A standard deviation between seeds with their number: `0.006 (3)`."""
    return MISSING if is_missing(value) else f"{score(value)} ({seeds})"


def p_value(value: Number) -> str:
    """A p-value; below 0.001 only that."""
    if value is None or math.isnan(value):
        return MISSING
    return f"< {SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


def count(value: Number) -> str:
    """A whole number with thousands separators."""
    return MISSING if value is None or math.isnan(value) else f"{int(value):,}"


def listed(names: Collection[str]) -> str:
    """Names in one cell; a dash where there are none."""
    return ", ".join(names) or MISSING


def percent(share: Number) -> str:
    """A share of 1 as per cent with one decimal."""
    return MISSING if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def duration(seconds: Number) -> str:
    """A time as a person says it: `12 s`, `3 min 20 s`, `1 h 5 min`."""
    if seconds is None or math.isnan(seconds):
        return MISSING
    minutes, rest = divmod(round(seconds), MINUTE)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, HOUR)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def rate(per_second: Number) -> str:
    """Samples per second."""
    return MISSING if per_second is None or math.isnan(per_second) else f"{per_second:.1f}/s"


def ceilings(known: Mapping[str, float] | None, sentence: str) -> list[str]:
    """The `sentence` with the highest PR-AUC that can be reached; empty where the catalog does not state it."""
    if not known:
        return []
    formatted = (
        f"{score(known['text'])} from texts, {score(known['image'])} from pictures, {score(known['both'])} from both"
    )
    return [sentence.format(formatted)]

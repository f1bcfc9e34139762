"""Numbers -> the bars of small charts; the template draws them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlim.report.kit import formats

BINS = 24
TAIL = 0.995  # what lies beyond this share of the values goes into the last bar
ROUNDING = 1e-9  # of binary fractions
SMALLEST_SHARE = 0.001
NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Bar:
    """`share` of 1 is the longest bar of its chart; `value` is what a reader sees."""

    label: str
    value: str
    share: float
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Chart:
    """Upright bars side by side, with what stands below the first and the last of them."""

    title: str
    bars: tuple[Bar, ...]
    low: str
    high: str
    note: str = ""


def histogram(title: str, values: NDArray[np.generic], unit: str = "", decimals: int = 0) -> Chart | None:
    """A chart of at most about 24 bins of a round width; None without values, one bar where all are equal."""
    if not len(values):
        return None
    numbers = values.astype(np.float64)
    if numbers.min() == numbers.max():
        same = _formatted(float(numbers[0]), decimals)
        return Chart(title, _bars(np.array([len(numbers)]), [same]), same, same, f"the same for all: {same}{unit}")
    low, tail = float(numbers.min()), float(np.quantile(numbers, TAIL))
    step = _nice((tail - low) / BINS, decimals)
    start = math.floor(low / step) * step
    bins = int((tail - start) / step) + 1
    places = np.minimum(((numbers - start) / step + ROUNDING).astype(np.int64), bins - 1)
    counts = np.bincount(places, minlength=bins)
    edges = [start + step * place for place in range(bins + 1)]
    bars = _bars(counts, [_range(edges[k], edges[k + 1], decimals, unit) for k in range(bins)])
    high, middle = float(numbers.max()), _formatted(float(np.median(numbers)), decimals)
    note = f"median {middle}{unit}, {_range(low, high, decimals, unit)}"
    last = _formatted(high, decimals) if high <= edges[-1] else f"{_formatted(edges[-1], decimals)} and more"
    return Chart(title, bars, _formatted(low, decimals), last, note)


def count_chart(title: str, sizes: NDArray[np.int64], most: int, note: str = "") -> Chart | None:
    """One bar for each of the sizes 1, 2, ... `most`; larger ones share the last bar. None without sizes."""
    if not len(sizes):
        return None
    counts = np.bincount(np.minimum(sizes, most), minlength=2)[1:]
    last = len(counts)
    open_end = bool(sizes.max() > most)
    labels = [f"{size}+" if size == most and open_end else str(size) for size in range(1, last + 1)]
    return Chart(title, _bars(counts, labels), labels[0], labels[-1], note)


def share_bars(counts: Mapping[str, int], most: int, rest: str) -> tuple[Bar, ...]:
    """Lying bars, the most frequent first (equal ones by name); beyond `most` of them one bar named `rest`."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    shown, left = ordered[:most], ordered[most:]
    if left:
        shown = [*shown, (rest.format(len(left)), sum(count for _, count in left))]
    total, longest = sum(counts.values()), max((count for _, count in shown), default=1)
    return tuple(Bar(name, formats.count(count), count / longest, share_of(count, total)) for name, count in shown)


def share_of(count: int, total: int) -> str:
    """The share as per cent; a small one that would be rounded to nothing is marked."""
    share = count / total if total else None
    return f"< {formats.percent(SMALLEST_SHARE)}" if share and share < SMALLEST_SHARE else formats.percent(share)


def _bars(counts: NDArray[np.int64], labels: Sequence[str]) -> tuple[Bar, ...]:
    longest, total = int(counts.max()), int(counts.sum())
    return tuple(
        Bar(label, formats.count(count), count / longest, share_of(count, total))
        for label, count in zip(labels, counts.tolist(), strict=True)
    )


def _nice(width: float, decimals: int) -> float:
    """The next round number that is not below `width` nor below the last decimal that is shown."""
    smallest = 10.0**-decimals
    if width <= smallest:
        return smallest
    power = 10.0 ** math.floor(math.log10(width))
    steps = [round(step * power / smallest) * smallest for step in NICE_STEPS]
    return next(step for step in steps if step >= width * (1 - ROUNDING))


def _range(low: float, high: float, decimals: int, unit: str) -> str:
    return f"{_formatted(low, decimals)} to {_formatted(high, decimals)}{unit}"


def _formatted(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"

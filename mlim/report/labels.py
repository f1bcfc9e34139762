"""The label-efficiency curve in words and cells: does pre-training pay, and with how many labelled pairs?"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlim.report.kit import formats

LABELS_TITLE: Final = "Does pre-training pay?"
LABELS_AXIS: Final = "PR-AUC on the test pairs"
LABELS_HEADER: Final = ("training pairs", "with pre-training", "without", "with minus without", "p-value", "seeds")
LABELS_NOTE: Final = (
    "The main variant and the one that differs from it in its missing pre-training alone, fine-tuned on so many of the "
    "training pairs in equally many steps; the validation pairs, which choose the step that is kept, are always the "
    "same. Bands and bars are intervals over families and seeds; differences are paired, and their p-values are not "
    "corrected."
)


def label_cells(points: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One line of the table for each point (`LabelPoint.plain`)."""
    return [
        [
            formats.count(point["pairs"]),
            formats.interval(**point["pretrained"]),
            formats.interval(**point["unpretrained"]),
            formats.signed_interval(**{end: point["difference"][end] for end in ("value", "low", "high")}),
            formats.p_value(point["difference"]["p_value"]),
            str(point["seeds"]),
        ]
        for point in points
    ]


def label_lines(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The curve as lines for a terminal; none where there is no curve."""
    lines = [
        f"{number:>8} training pairs: {first} with pre-training, {second} without, {apart}"
        for number, first, second, apart, *_ in label_cells(points)
    ]
    return [f"{LABELS_TITLE}", *lines] if lines else []

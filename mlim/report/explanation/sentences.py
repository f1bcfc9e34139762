"""An explanation in words: what the terminal shows, and what the page says beside its pictures."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from mlim.matching.explain import Contribution, Explanation, Region
from mlim.matching.explained import ExplainedPair
from mlim.matching.nearest_pairs import LabelledPair
from mlim.report.kit import formats
from mlim.report.kit.words import clip

ROWS: Final = ("top", "middle", "bottom")
COLUMNS: Final = ("left", "centre", "right")
CLIPPED: Final = 36  # characters of a value in the terminal
NOTHING: Final = "\u2013"  # en dash: a column without a value


def describe(pair: ExplainedPair) -> Iterator[str]:
    """The whole explanation, line by line."""
    found = pair.explanation
    yield f"{pair.names[0]} and {pair.names[1]}"
    yield headline(found)
    yield ""
    yield from _waterfall(found)
    yield ""
    yield f"Baseline: {compared(pair)}."
    for item, name in enumerate(pair.names):
        if sentence := regions(found, item):
            yield f"Picture of {name}: {sentence}"
    if found.regions:
        yield without_regions(found)
    yield change(found)
    yield from (nearest(one, pair.names) for one in pair.nearest)
    if pair.no_labels:
        yield f"Nearest labelled pairs: {pair.no_labels}."


def headline(found: Explanation) -> str:
    """The decision in a sentence."""
    decision, side = ("Match", "reaches") if found.match else ("No match", "is below")
    return f"{decision}: score {formats.score(found.score)} {side} the threshold {formats.score(found.threshold)}"


def compared(pair: ExplainedPair) -> str:
    """What is left when all parts are taken away."""
    if pair.explanation.references:
        return f"the mean score with the texts and pictures of other pairs ({pair.compared})"
    return "the score without texts, and with pictures of one colour"


def method(found: Explanation) -> str:
    """How contributions were computed."""
    orders = "all orders" if found.exact else "a sample of orders"
    return (
        f"Contributions are Shapley values over {orders} of the parts: the mean change of the score when the items' "
        "own part takes the place of the others'. They add up to the score less the baseline."
    )


def says(one: Contribution) -> str:
    """What both items say in a column."""
    return f"{one.first or NOTHING} | {one.second or NOTHING}"


def regions(found: Explanation, item: int) -> str:
    """On which regions of an item's picture the score depends most; nothing where no picture is read."""
    if found.effects is None:
        return ""
    named = [region(one, number, len(found.effects[0])) for number, one in numbered(found, item)]
    if not named:
        return "none of the regions on which the score depends most."
    return f"the score depends most on {'; '.join(named)}."


def without_regions(found: Explanation) -> str:
    """What is left of the score without these regions."""
    return f"With these regions hidden the score is {formats.score(found.without_regions)}."


def numbered(found: Explanation, item: int) -> list[tuple[int, Region]]:
    """The strongest regions that lie in an item's picture, with their rank among those of both pictures, from 1."""
    return [(number, one) for number, one in enumerate(found.regions, start=1) if one.item == item]


def region(one: Region, number: int, grid: int) -> str:
    """A region by its rank, place and effect."""
    return f"{number}, {place(one, grid)} ({formats.signed(one.effect)})"


def place(one: Region, grid: int) -> str:
    """Where a region lies: `top left`, `centre`."""
    third = len(ROWS) * (2 * np.array([one.row, one.column]) + 1) // (2 * grid)  # in which the region's centre lies
    row, column = ROWS[third[0]], COLUMNS[third[1]]
    rough = "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"
    return f"{rough} (row {one.row + 1}, column {one.column + 1} of {grid})"


def change(found: Explanation) -> str:
    """What would have to change for another decision."""
    if found.change is None:
        return "What would have to change: no change of up to three parts leads to another decision."
    parts, score = listed(found.change.parts), formats.score(found.change.score)
    if found.change.how == "other":
        return f"What would have to change: with {parts} of other pairs they would not match (score {score})."
    return f"What would have to change: with the same {parts} in both items they would match (score {score})."


def listed(names: tuple[str, ...]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def nearest(one: LabelledPair, names: tuple[str, str]) -> str:
    """A labelled pair in a line; `names` are the items that are explained."""
    label = "match" if one.match else "no match"
    if {*one[:2]} == {*names}:
        return f"This pair is labelled itself: {label} ({one.split})"
    return f"Labelled pair nearby: {one.first} and {one.second}, {label} ({one.split}), similarity {one.similarity:.2f}"


def in_order(found: Explanation) -> Iterator[Contribution]:
    """The contributions in the order of the waterfall: the picture, then the columns of the text, strongest first."""
    yield from (one for one in found.contributions if one.kind == "picture")
    yield from columns(found)


def columns(found: Explanation) -> list[Contribution]:
    """The columns of the text, the strongest first."""
    own = [one for one in found.contributions if one.kind == "text"]
    return sorted(own, key=lambda one: -abs(one.value))


def _waterfall(found: Explanation) -> Iterator[str]:
    rows = [("baseline", formats.score(found.baseline), "")]
    if found.reads("picture"):
        rows.append(("pictures", formats.signed(found.of("picture")), ""))
    if found.reads("text"):
        rows.append(("texts", formats.signed(found.of("text")), ""))
        rows += [(f"  {one.name}", formats.signed(one.value), _clipped(one)) for one in columns(found)]
    rows.append(("score", formats.score(found.score), ""))
    width = max(len(name) for name, _, _ in rows)
    yield from (f"  {name.ljust(width)}  {value.rjust(7)}  {note}".rstrip() for name, value, note in rows)


def _clipped(one: Contribution) -> str:
    return says(one._replace(first=clip(one.first, CLIPPED), second=clip(one.second, CLIPPED)))

"""The page of one pair: a waterfall from the baseline to the score, both pictures with outlines, and all in words.

It is one HTML file that loads nothing, runs no script and escapes every text of the catalog. Nothing is told by colour
alone: contributions have signs, bars that take away are hollow, and outlines have numbers that the words refer to.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from mlim.files import atomic_file
from mlim.matching.explain import Explanation, Kind
from mlim.matching.explained import ExplainedPair
from mlim.matching.items import Pixels
from mlim.report.explanation import sentences
from mlim.report.kit import formats
from mlim.report.kit.blocks import Card, PairCard, Tile
from mlim.report.kit.images import PNG, data_uri
from mlim.report.kit.page import render_page
from mlim.report.kit.words import clip, clip_words, compare

PACKAGE: Final = "mlim.report.explanation"
TEMPLATE, STYLE = "explanation.html", "explanation.css"
SIGN: Final = '<meta name="generator" content="mlim">'  # in the template: a page that carries it may be replaced
CHARACTERS: Final = 400  # of a text
MARGIN: Final = 0.04  # of the waterfall's width, on both sides


class Step(NamedTuple):
    """A row of the waterfall; `start` and `width` are shares of its width, `value` is what a reader sees.

    `level`: 0 for baseline, texts, pictures and score, 1 for a column. `falls`: the bar takes away.
    """

    name: str
    value: str
    start: float
    width: float
    falls: bool
    level: int
    first: str = ""
    second: str = ""


class Outline(NamedTuple):
    """A region to be outlined in a picture of side 1, with its number."""

    number: int
    left: float
    top: float
    side: float


class Seen(NamedTuple):
    """An item's picture with its outlines, and the same in words."""

    name: str
    uri: str
    outlines: tuple[Outline, ...]
    words: str


def write_page(pair: ExplainedPair, out: Path) -> None:
    """Write the page of an explained pair."""
    page = render(pair)
    with atomic_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(pair: ExplainedPair) -> str:
    """The page; equal explanations give equal text."""
    found = pair.explanation
    left, right = (clip_words(words, CHARACTERS) for words in compare(*(item.text for item in pair.items)))
    values = {
        "pair": pair,
        "found": found,
        "headline": sentences.headline(found),
        "tiles": tiles(pair),
        "steps": tuple(waterfall(found)),
        "threshold": _Scale(found).place(found.threshold),
        "compared": sentences.compared(pair),
        "method": sentences.method(found),
        "seen": tuple(_seen(pair, item) for item in range(2)) if found.effects is not None else (),
        "without": sentences.without_regions(found) if found.regions else "",
        "texts": ((pair.names[0], left), (pair.names[1], right)),
        "change": _sentence(sentences.change(found).partition(": ")[2]),
        "nearest": tuple(_nearest(pair)),
        "words": tuple(filter(None, sentences.describe(pair))),
    }
    return render_page(PACKAGE, TEMPLATE, values, STYLE)


def tiles(pair: ExplainedPair) -> tuple[Tile, ...]:
    """The numbers above the page."""
    found = pair.explanation
    kinds: tuple[tuple[Kind, str], ...] = (("text", "texts contribute"), ("picture", "pictures contribute"))
    shown = (Tile(name, formats.signed(found.of(kind))) for kind, name in kinds if found.reads(kind))
    return (
        Tile("score", formats.score(found.score), f"matches from {formats.score(found.threshold)} on"),
        Tile("probability", f"{pair.probability:.2f}", "calibrated"),
        Tile("baseline", formats.score(found.baseline), "without the pair's own parts"),
        *shown,
    )


def waterfall(found: Explanation) -> Iterator[Step]:
    """From the baseline over pictures and texts to the score; the columns of the text below it."""
    scale = _Scale(found)
    running = found.baseline
    yield scale.step("baseline", formats.score(running), running, running)
    if found.reads("picture"):
        running += found.of("picture")
        yield scale.step("pictures", formats.signed(found.of("picture")), found.baseline, running)
    if found.reads("text"):
        yield scale.step("texts", formats.signed(found.of("text")), running, found.score)
    for one in sentences.columns(found):
        first, second = (clip(value, CHARACTERS) or sentences.NOTHING for value in (one.first, one.second))
        step = scale.step(one.name, formats.signed(one.value), running, running + one.value, level=1)
        yield step._replace(first=first, second=second)
        running += one.value
    yield scale.step("score", formats.score(found.score), found.score, found.score)


class _Scale:
    """Scores as shares of the waterfall's width; all its values and the threshold fit in."""

    def __init__(self, found: Explanation) -> None:
        reached = [found.baseline, found.score, found.threshold, *_reached(found)]
        self._low, high = min(reached), max(reached)
        self._width = max(high - self._low, 1e-9)

    def place(self, score: float) -> float:
        """Where a score lies, from 0 to 1."""
        return MARGIN + (1 - 2 * MARGIN) * (score - self._low) / self._width

    def step(self, name: str, value: str, before: float, after: float, level: int = 0) -> Step:
        """A bar from one score to another; one without length is a mark."""
        left, right = sorted((self.place(before), self.place(after)))
        return Step(name, value, left, right - left, after < before, level)


def _reached(found: Explanation) -> Iterator[float]:
    running = found.baseline
    for one in sentences.in_order(found):
        running += one.value
        yield running


def _seen(pair: ExplainedPair, item: int) -> Seen:
    found, name = pair.explanation, pair.names[item]
    grid = 1 if found.effects is None else len(found.effects[item])
    outlines = (
        Outline(number, one.column / grid, one.row / grid, 1 / grid) for number, one in sentences.numbered(found, item)
    )
    return Seen(name, _png(pair.items[item].picture), tuple(outlines), _sentence(sentences.regions(found, item)))


def _nearest(pair: ExplainedPair) -> Iterator[PairCard]:
    for one in pair.nearest:
        first, second = pair.shown[one.first], pair.shown[one.second]
        words = (clip_words(part, CHARACTERS) for part in compare(first.text, second.text))
        left, right = (
            Card(_png(item.picture), name, part)
            for item, name, part in zip((first, second), one[:2], words, strict=True)
        )
        head = f"{one.split} · similarity {one.similarity:.2f}"
        yield PairCard(left, right, head, "match" if one.match else "mismatch")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _png(picture: Pixels) -> str:
    target = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(target, "PNG", optimize=True)
    return data_uri(target.getvalue(), PNG)

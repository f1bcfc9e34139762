"""Pictures with boxes: what is there, and what was found."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from mlim.evaluation.detections import SIDES, Row, found_of, truth_of
from mlim.evaluation.metrics.objects import SURE, hits_of
from mlim.report.examples.pictures import Pictures, some
from mlim.report.kit.blocks import Block, Card, Fact, Gallery

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DASHES = " (solid, numbers: what is there; dashed, letters: what was found)"


def detection_cards(label: str, scores: pd.DataFrame, pictures: Pictures) -> Iterator[Block]:
    """Pictures whose objects `label` finds all and alone, and others."""
    rows = scores.sort_values("id", ignore_index=True)
    rows["truth"] = [[row for row in truth if not row["crowd"]] for truth in rows["truth"]]
    shown = [_surest(found) for found in rows["found"]]
    hits = [_hits(truth, found) for truth, found in zip(rows["truth"], shown, strict=True)]
    right = np.array(
        [len(hit) == len(truth) == len(found) for hit, truth, found in zip(hits, rows["truth"], shown, strict=True)],
        dtype=bool,
    )
    for title, chosen in (("all found", right), ("others", ~right)):
        places = some(pd.DataFrame({"place": np.flatnonzero(chosen)}))["place"]
        cards = tuple(
            _card(pictures, rows.loc[place, "id"], rows.loc[place, "truth"], shown[place], hits[place])
            for place in places
        )
        if cards:
            yield Gallery(f"{label}, {title}{DASHES}", cards)


def _surest(found: Sequence[Row]) -> list[Row]:
    """The detections that count, the surest first; the surest alone where none does."""
    ranked = sorted(found, key=lambda row: -row["score"])
    return [row for row in ranked if row["score"] >= SURE] or ranked[:1]


def _hits(truth: Sequence[Row], found: Sequence[Row]) -> set[int]:
    """The places of the detections that are objects."""
    numbers = {label: number for number, label in enumerate(sorted({row["label"] for row in (*truth, *found)}))}
    return {hit.found for hit in hits_of(truth_of(truth, numbers), found_of(found, numbers))}


def _card(pictures: Pictures, item: str, truth: Sequence[Row], found: Sequence[Row], hits: set[int]) -> Card:
    named = [(str(number), _name(row)) for number, row in enumerate(truth, 1)]
    told = [(_letter(place), f"{_name(row)} {row['score']:.2f}") for place, row in enumerate(found)]
    marks = [("there", mark, row) for (mark, _), row in zip(named, truth, strict=True)]
    marks += [("found", mark, row) for (mark, _), row in zip(told, found, strict=True)]
    facts = [Fact(mark, name) for mark, name in named]
    facts += [Fact(mark, name, place not in hits) for place, (mark, name) in enumerate(told)]
    said = f"there: {_listed(named)}; found: {_listed(told)}"
    return pictures.card(item, "", tuple(facts), overlay=_boxes(marks, pictures.side(item), said))


def _letter(place: int) -> str:
    return LETTERS[place % len(LETTERS)]


def _name(row: Row) -> str:
    return " ".join((*(value for value in row["attributes"] if value), row["label"]))


def _listed(named: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{mark} {name}" for mark, name in named) or "nothing"


def _boxes(marks: Sequence[tuple[str, str, Row]], side: int, said: str) -> Markup:
    """Frames over a picture of `side` pixels, light lines on dark ones, so that they are seen on any ground.

    All dark lines come first: a dashed frame over a solid one leaves the solid one visible.
    """
    dark = Markup("").join(_rectangle("under", row) for _, _, row in marks)
    light = Markup("").join(_rectangle(kind, row) + _mark(kind, mark, row, side) for kind, mark, row in marks)
    return Markup('<svg class="boxes" viewBox="0 0 {0} {0}" role="img" aria-label="{1}">{2}{3}</svg>').format(
        side, said, dark, light
    )


def _rectangle(kind: str, row: Row) -> Markup:
    x0, y0, x1, y1 = (float(row[name]) for name in SIDES)
    box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
    sizes = Markup(" ").join(Markup('{}="{:.1f}"').format(name, value) for name, value in box.items())
    return Markup('<rect class="{}" {}/>').format(kind, sizes)


def _mark(kind: str, mark: str, row: Row, side: int) -> Markup:
    """The number or letter of a frame, at its upper left or lower right corner."""
    x0, y0, x1, y1 = (float(row[name]) for name in SIDES)
    at, size = ((x0, y0) if kind == "there" else (x1, y1)), side / 10
    x, y = min(max(at[0], size), side - size), min(max(at[1], size), side - size / 3)
    return Markup('<text x="{:.1f}" y="{:.1f}" font-size="{:.1f}">{}</text>').format(x, y, size, mark)

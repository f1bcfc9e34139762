"""Annotations from columns of the catalog itself: questions that a column answers, captions, one box per picture."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mlim.annotations.names import Names
from mlim.annotations.records import Annotation, Caption, Place, Question, Region, kind_of
from mlim.catalog.annotation_rules import AnnotationRules, ColumnQuestion, ColumnRegions, caption_parts
from mlim.catalog.description import CatalogDescription
from mlim.catalog.texts import clean_text
from mlim.catalog.values import Spellings

WHERE = "catalog.yaml"
BORDER_SPREAD = 24  # of 255: a border whose colours differ more is no plain backdrop
FOREGROUND_STEP = 40  # of 255, in one channel: what differs more from the border is the product
LEAST_FOREGROUND = 0.01  # of the pixels; less is noise
NO_FOREGROUND, NO_LABEL = "no-foreground", "no-label"  # why a picture gets no box


class ItemValues(NamedTuple):
    """One item: its number in the index, its values by column, and its picture (JPEG)."""

    row: int
    id: str
    values: Mapping[str, str]
    picture: bytes | None = None


class ValueReader:
    """Reads the values of items of index.parquet as annotations tell them: as words, and one spelling for each value.

    Markup is taken out as from the texts that the model reads. What means "no value" (`values` in catalog.yaml) is
    none. Columns that are asked about or name boxes have few values, each in the spelling of its first item; others
    are told as written.
    """

    def __init__(self, rules: AnnotationRules, description: CatalogDescription) -> None:
        self._values = description.values
        self._first = {column: Spellings(description.values.of(column)) for column in rules.compared}
        self._kept = {text.column for text in description.columns.text if not text.clean}

    def read(self, row: int, item: Mapping[str, Any], picture: bytes | None = None) -> ItemValues:
        """The values of one item, the number `row` of the index."""
        told = {name: self._told(name, cell) for name, cell in stored_values(item).items()}
        return ItemValues(row, item["id"], {name: value for name, value in told.items() if value}, picture)

    def _told(self, column: str, cell: str) -> str | None:
        words = cell if column in self._kept else clean_text(cell)
        if column in self._first:
            return self._first[column].of(words)
        return None if self._values.of(column).comparable(words) is None else words


def stored_values(item: Mapping[str, Any]) -> dict[str, str]:
    """The cells of an item of index.parquet by column: those that the model reads, and those that rules read."""
    cells = {**json.loads(item["attributes"]), **json.loads(item["facts"])}
    return {name: str(cell or "") for name, cell in cells.items()}


def annotate_columns(
    rules: AnnotationRules, items: Sequence[ItemValues], seed: int, unboxed: Counter[str]
) -> Iterator[Annotation]:
    """What the columns say about each item; an item without a value is not asked about.

    `unboxed` counts the pictures that get no box, by reason.
    `verify` asks for the true value or, as often, for another one that occurs in the column.
    """
    for number, question in enumerate(rules.questions):
        yield from _questions(number, question, items, seed)
    for item in items:
        yield from _captions(rules.captions, item)
        if rules.regions is not None:
            yield from _region(rules.regions, item, unboxed)


def _questions(number: int, rule: ColumnQuestion, items: Sequence[ItemValues], seed: int) -> Iterator[Question]:
    known = sorted({item.values[rule.column] for item in items if rule.column in item.values})
    for item in items:
        value = item.values.get(rule.column)
        if value is None:
            continue
        yield _question(item, f"{item.id}-{number}", rule.ask, value, rule.column)
        if rule.verify is not None and len(known) > 1:
            generator = np.random.default_rng([seed, number, item.row])
            true = bool(generator.integers(2))
            others = [other for other in known if other != value]
            shown = value if true else others[int(generator.integers(len(others)))]
            text, answer = rule.verify.replace("{value}", shown), "yes" if true else "no"
            yield _question(item, f"{item.id}-{number}v", text, answer, f"{rule.column}-is")


def _question(item: ItemValues, name: str, text: str, answer: str, template: str) -> Question:
    answers = ((answer.lower(), 1.0),)
    return Question(Place(WHERE, item.row), Names((item.id,)), name, text, answers, kind_of(answers), template)


def _captions(captions: Sequence[str], item: ItemValues) -> Iterator[Caption]:
    for number, caption in enumerate(captions):
        parts = caption_parts(caption)
        if all(column in item.values for _, column in parts if column):
            text = "".join(literal + (item.values[column] if column else "") for literal, column in parts)
            yield Caption(Place(WHERE, item.row), Names((item.id,)), f"{item.id}-{number}", text)


def _region(rule: ColumnRegions, item: ItemValues, unboxed: Counter[str]) -> Iterator[Region]:
    box = None if item.picture is None else find_foreground(item.picture)
    if box is None:
        unboxed[NO_FOREGROUND] += 1
    elif rule.label not in item.values:
        unboxed[NO_LABEL] += 1
    else:
        told = tuple((name, item.values[name]) for name in rule.attributes if name in item.values)
        yield Region(Place(WHERE, item.row), Names((item.id,)), box, item.values[rule.label], told)


def find_foreground(picture: bytes) -> tuple[float, float, float, float] | None:
    """The box, in 0..1, of what differs from the colour of the border; None where the border is not of one colour."""
    with Image.open(io.BytesIO(picture), formats=["JPEG"]) as opened:
        pixels = np.asarray(opened.convert("RGB"), dtype=np.int16)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    backdrop = np.median(border, axis=0)
    if np.percentile(np.abs(border - backdrop).max(axis=1), 90) > BORDER_SPREAD:
        return None
    differs = np.abs(pixels - backdrop).max(axis=2) > FOREGROUND_STEP
    if differs.mean() < LEAST_FOREGROUND:
        return None
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    height, width = differs.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height

"""What an importer yields: annotations of one picture (or two), with the place that they were read from."""

from dataclasses import dataclass
from typing import Literal

from mlim.annotations.names import Names

Kind = Literal["binary", "number", "open"]
Attribute = tuple[str, str]  # kind (empty where the file has none) and value


@dataclass(frozen=True)
class Place:
    """Where something was read: the file and its row (line, or number of the entry), counted from 1."""

    file: str
    row: int


@dataclass(frozen=True)
class Region:
    """A box in fractions of the picture's width and height; `crowd` marks many things in one box (COCO)."""

    place: Place
    picture: Names
    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    label: str
    attributes: tuple[Attribute, ...] = ()
    score: float = 1.0
    crowd: bool = False


@dataclass(frozen=True)
class Caption:
    """A sentence about a picture."""

    place: Place
    picture: Names
    caption_id: str
    caption: str


@dataclass(frozen=True)
class Question:
    """A question about a picture; `answers` with scores in (0, 1]; `entailed` are ids of questions that follow.

    `outside` marks a question whose answer is known to be none of the data set's list, so that `answers` is empty.
    """

    place: Place
    picture: Names
    question_id: str
    question: str
    answers: tuple[tuple[str, float], ...]
    kind: Kind
    template: str
    entailed: tuple[str, ...] = ()
    outside: bool = False


@dataclass(frozen=True)
class Statement:
    """A sentence about two pictures; the statements of one `set` share the sentence."""

    place: Place
    left: Names
    right: Names
    statement_id: str
    sentence: str
    label: bool
    set: str


Annotation = Region | Caption | Question | Statement


def kind_of(answers: tuple[tuple[str, float], ...]) -> Kind:
    """The kind of a question whose file does not say it: by its best answer."""
    best = max(answers, key=lambda answer: answer[1])[0] if answers else ""
    return "binary" if best in ("yes", "no") else "number" if best.isdecimal() else "open"

"""What a page is built from: sections of tables, plots and pictures; the template knows how each of them looks."""

from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

from mlim.report.kit.words import Words


@dataclass(frozen=True)
class Line:
    """A number as the length of a line: `share` of 1 fills the cell; `tone` bad stresses it."""

    share: float
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Cells as formatted text, or lines; columns after the first `text_columns` hold numbers and are set right.

    `tones` (good, bad, open, missing), one for each row, colour the last column of text.
    """

    kind: ClassVar[str] = "table"
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Line, ...], ...]
    note: str = ""
    text_columns: int = 1
    strong: int | None = None  # the row to stress
    tones: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plot:
    """A drawing as inline SVG."""

    kind: ClassVar[str] = "plot"
    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with what it shows."""

    kind: ClassVar[str] = "picture"
    title: str
    uri: str
    note: str = ""


@dataclass(frozen=True)
class Fact:
    """A small value below a card; `differs`: the item beside it has another one."""

    name: str
    value: str
    differs: bool = False


@dataclass(frozen=True)
class Card:
    """One picture (None: there is none to show) with a name, a text in stretches, and small facts below it.

    `overlay` is drawn over the picture.
    """

    uri: str | None
    name: str
    words: tuple[Words, ...]
    facts: tuple[Fact, ...] = ()
    note: str = ""
    problem: str = ""
    overlay: Markup | None = None


@dataclass(frozen=True)
class PairCard:
    """Two items side by side; `truth` (match, mismatch, or nothing) and `head` stand above them."""

    first: Card
    second: Card
    head: str
    truth: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards side by side."""

    kind: ClassVar[str] = "gallery"
    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Pairs:
    """Cards of pairs."""

    kind: ClassVar[str] = "pairs"
    title: str
    cards: tuple[PairCard, ...]


@dataclass(frozen=True)
class Folded:
    """Long text that opens on demand."""

    kind: ClassVar[str] = "folded"
    title: str
    text: str


@dataclass(frozen=True)
class Sentences:
    """Plain sentences, one below the other; `folded`: they open on demand."""

    kind: ClassVar[str] = "sentences"
    title: str
    sentences: tuple[str, ...]
    folded: bool = False


@dataclass(frozen=True)
class Verdict:
    """A plain sentence about the results with its numbers; tone is good, bad or open."""

    tone: str
    sentence: str
    detail: str


@dataclass(frozen=True)
class Verdicts:
    """Sentences about the results, each with its tone and numbers."""

    kind: ClassVar[str] = "verdicts"
    verdicts: tuple[Verdict, ...]


Block = Table | Plot | Picture | Gallery | Pairs | Folded | Sentences | Verdicts


@dataclass(frozen=True)
class Section:
    """A heading, a lead of one or two sentences, and blocks; `missing` says in one sentence what is not there."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Tile:
    """One figure that a reader should remember."""

    name: str
    value: str
    note: str = ""

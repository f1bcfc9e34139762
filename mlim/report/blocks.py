"""What a page is built from: sections of tables, plots and pictures; the template knows how each of them looks."""

from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """Cells as text, already formatted; columns after the first `text_columns` hold numbers and are set right.

    `tones` (good, bad, open, missing), one for each row, colour the last column of text.
    """

    kind: ClassVar[str] = "table"
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
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
class Thumbnail:
    """A small picture (None: there is none to show) with a title and a sentence."""

    uri: str | None
    title: str
    text: str


@dataclass(frozen=True)
class Gallery:
    """Thumbnails side by side."""

    kind: ClassVar[str] = "gallery"
    title: str
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class PairCard:
    """Two items, what they are and what the model said."""

    items: tuple[Thumbnail, Thumbnail]
    truth: str
    verdict: str


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
    """Plain sentences, one below the other."""

    kind: ClassVar[str] = "sentences"
    title: str
    sentences: tuple[str, ...]


Block = Table | Plot | Picture | Gallery | Pairs | Folded | Sentences


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


@dataclass(frozen=True)
class Verdict:
    """A plain sentence about the results with its numbers; tone is good, bad or open."""

    tone: str
    sentence: str
    detail: str

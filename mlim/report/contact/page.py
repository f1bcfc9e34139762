"""The contact sheet as one HTML file that loads nothing, runs no script and escapes every text of the catalog."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlim.files import atomic_file
from mlim.report.contact.cards import CardMaker
from mlim.report.contact.gather import Look, gather
from mlim.report.contact.numbers import category_bars, family_chart, headline, shape_charts, tiles
from mlim.report.contact.problems import find_problems, unchecked
from mlim.report.contact.reading import Reader
from mlim.report.contact.settings import ContactSettings
from mlim.report.contact.tables import pair_tables, quarantine_tables, source_tables, validation_tables
from mlim.report.kit import formats
from mlim.report.kit.page import render_page
from mlim.workspace import Workspace

TEMPLATE, STYLE = "contact.html", "contact.css"
SIGN = '<meta name="generator" content="mlim">'  # in the template: a page that carries it may be replaced


def contact_sheet(catalog: Path | None, workspace: Workspace, out: Path, settings: ContactSettings) -> dict[str, Any]:
    """Look at a catalog and its work folder and write the page to `out`; returns what `write_page` does."""
    return write_page(gather(catalog, workspace, settings), out)


def write_page(look: Look, out: Path, reader: Reader | None = None) -> dict[str, Any]:
    """Write the page; returns its path, its bytes, and how many pictures were left out to keep it small.

    With a `reader`, what the model does not read of a text is struck.
    """
    cards = CardMaker(look.settings, reader)
    page = render(look, cards, _relative(look.data_docs, out))
    with atomic_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return {"page": str(out), "bytes": out.stat().st_size, "pictures_left_out": cards.thumbnails.left_out}


def render(look: Look, cards: CardMaker, data_docs: str | None) -> str:
    """The page; equal looks give equal text. `data_docs` is the address of validation's pages, from the page."""
    return render_page("mlim.report.contact", TEMPLATE, {**view(look, cards), "data_docs": data_docs}, STYLE)


def view(look: Look, cards: CardMaker) -> dict[str, Any]:
    """All that the template shows, ready to be drawn."""
    return {
        "look": look,
        "max_tokens": None if cards.reader is None else cards.reader.max_tokens,
        "unchecked": unchecked(look),
        "headline": headline(look),
        "tiles": tiles(look),
        "problems": find_problems(look),
        "items": cards.items(look.items),
        "samples": cards.samples(look.source.samples) if look.source is not None else (),
        "families": cards.families(look.families),
        "family_chart": family_chart(look),
        "shapes": shape_charts(look),
        "categories": category_bars(look),
        "kinds": cards.kinds(look.pairs.kinds) if look.pairs is not None else (),
        "ties": cards.ties(look.pairs.ties) if look.pairs is not None else (),
        "pair_tables": pair_tables(look.pairs),
        "reasons": cards.reasons(look.reasons),
        "quarantine_tables": quarantine_tables(look),
        "validation_tables": validation_tables(look.validation),
        "source_tables": source_tables(look.source),
        "left_out": formats.count(cards.thumbnails.left_out) if cards.thumbnails.left_out else "",
        "sections": sections(look),
    }


def sections(look: Look) -> Sequence[tuple[str, str]]:
    """Anchor and title of the sections that are on the page."""
    shown = (
        ("items", "Items", bool(look.items)),
        ("samples", "Sampled rows", look.source is not None and bool(look.source.samples)),
        ("families", "Families", bool(look.families)),
        ("pairs", "Pairs", look.pairs is not None),
        ("quarantine", "Quarantine", bool(look.reasons)),
        ("validation", "Validation", look.validation is not None),
        ("shapes", "Distributions", look.measures is not None and len(look.measures) > 0),
        ("source", "Source columns", look.source is not None),
    )
    return tuple((anchor, title) for anchor, title, there in shown if there)


def _relative(target: Path | None, page: Path) -> str | None:
    """The way from the page to a file, so that the page names no folder of this machine."""
    return None if target is None else Path(os.path.relpath(target, page.parent)).as_posix()

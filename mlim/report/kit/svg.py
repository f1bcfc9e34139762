"""Drawings inside the page as inline SVG, so that the page is one file."""

import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from markupsafe import Markup

from mlim.report.kit.blocks import Plot
from mlim.report.kit.colours import INK, PLOT


def plot(name: str, title: str, draw: Callable[[Path], None], note: str = "") -> Plot:
    """What `draw` writes to the SVG file it is given, as a part of the page; `name` keeps its ids from clashing."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.svg"
        draw(path)
        return Plot(title, inline_svg(path.read_text(encoding="utf-8"), name), note)


def inline_svg(document: str, prefix: str) -> Markup:
    """An SVG document of our own figures as an element: ids prefixed, no comments, colours as style.css has them.

    The style sheet has a colour of each name for light and for dark pages; ink is the page's text colour.
    """
    element = re.sub(r"<!--.*?-->\n?", "", document[document.index("<svg") :], flags=re.DOTALL)
    element = re.sub(r'\bid="', f'id="{prefix}-', element)
    element = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{prefix}-", element)
    for name, colour in PLOT.items():
        element = element.replace(colour, f"var(--plot-{name})")
    return Markup(element.replace(INK, "currentColor"))  # noqa: S704 (drawn by us; labels are outlines, not markup)

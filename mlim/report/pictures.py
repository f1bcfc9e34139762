"""Pictures and drawings inside the page: data URIs and inline SVG, so that the page is one file."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from markupsafe import Markup

from mlim.report.blocks import Plot
from mlim.report.figures import INK

JPEG = "image/jpeg"
PNG = "image/png"


def data_uri(content: bytes, media_type: str) -> str:
    """The bytes as a `data:` address."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def plot(name: str, title: str, draw: Callable[[Path], None], note: str = "") -> Plot:
    """What `draw` writes to the SVG file it is given, as a part of the page; `name` keeps its ids from clashing."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.svg"
        draw(path)
        return Plot(title, inline_svg(path.read_text(encoding="utf-8"), name), note)


def inline_svg(document: str, prefix: str) -> Markup:
    """An SVG document of our own figures as an element: ids prefixed, ink in the page's text colour, no comments."""
    element = re.sub(r"<!--.*?-->\n?", "", document[document.index("<svg") :], flags=re.DOTALL)
    element = re.sub(r'\bid="', f'id="{prefix}-', element)
    element = re.sub(r'(url\(#|xlink:href="#)', rf"\g<1>{prefix}-", element)
    return Markup(element.replace(INK, "currentColor"))  # noqa: S704 (drawn by us; labels are outlines, not markup)

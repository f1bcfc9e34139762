"""Colours that figures and pages share."""

from collections.abc import Mapping
from typing import Final

INK: Final = "#1c2330"  # of figures; on a page the text colour takes its place
PLOT: Final[Mapping[str, str]] = {  # Okabe and Ito, without yellow; style.css has a brighter one of each for dark pages
    "blue": "#0072b2",
    "vermilion": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "grey": "#6b7788",
}

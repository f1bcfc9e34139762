"""Colours that figures and pages share."""

from typing import Final

INK: Final = "#1c2330"  # of figures; on a page the text colour takes its place

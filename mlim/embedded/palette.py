"""Colours and materials: what they look like, and what shops call them."""

from collections.abc import Mapping
from typing import NamedTuple

Rgb = tuple[int, int, int]


class Colour(NamedTuple):
    """A colour, its usual name first, then what else shops write for it (the last one is an abbreviation)."""

    rgb: Rgb
    words: tuple[str, ...]


COLOURS: Mapping[str, Colour] = {
    "red": Colour((196, 38, 46), ("red", "scarlet", "rd")),
    "pink": Colour((232, 128, 160), ("pink", "rose", "pnk")),
    "orange": Colour((230, 122, 40), ("orange", "tangerine", "orng")),
    "yellow": Colour((236, 190, 48), ("yellow", "mustard", "yel")),
    "green": Colour((52, 130, 74), ("green", "emerald", "grn")),
    "mint": Colour((140, 205, 176), ("mint", "pistachio", "mnt")),
    "turquoise": Colour((28, 150, 160), ("turquoise", "teal", "turq")),
    "sky": Colour((120, 172, 222), ("sky blue", "light blue", "lt blue")),
    "navy": Colour((38, 54, 108), ("navy", "dark blue", "nvy")),
    "purple": Colour((118, 68, 148), ("purple", "violet", "purp")),
    "brown": Colour((120, 80, 54), ("brown", "chocolate", "brn")),
    "grey": Colour((132, 136, 142), ("grey", "gray", "gry")),
    "black": Colour((48, 48, 54), ("black", "charcoal", "blk")),
    "cream": Colour((228, 214, 186), ("cream", "ivory", "crm")),
}

LIGHT_INK: Rgb = (250, 244, 230)  # second colour on dark and medium products
DARK_INK: Rgb = (62, 58, 78)  # second colour on light products


class Finish(NamedTuple):
    """How a material answers light: strength of the highlight, mirror bands, weave and grain.

    `sharpness` is how often the highlight's cosine is squared (5: the 32nd power). Squaring instead of a power, and
    no sine or exponential anywhere per pixel, keeps the pictures' bytes equal on every processor.
    """

    highlight: float = 0.0
    sharpness: int = 0
    bands: float = 0.0
    weave: float = 0.0
    grain: float = 0.0


class Material(NamedTuple):
    """A material, its look, and its words."""

    finish: Finish
    words: tuple[str, ...]


MATERIALS: Mapping[str, Material] = {
    "cotton": Material(Finish(grain=0.03), ("cotton", "100% cotton", "cott")),
    "wool": Material(Finish(weave=0.16, grain=0.03), ("wool", "knitted wool", "knit")),
    "satin": Material(Finish(highlight=0.35, sharpness=3), ("satin", "silk", "shiny satin")),
    "canvas": Material(Finish(weave=0.05, grain=0.05), ("canvas", "sturdy canvas", "cnv")),
    "leather": Material(Finish(highlight=0.25, sharpness=4, grain=0.05), ("leather", "real leather", "lthr")),
    "ceramic": Material(Finish(highlight=0.75, sharpness=5), ("ceramic", "glazed ceramic", "stoneware")),
    "steel": Material(Finish(highlight=0.6, sharpness=4, bands=0.3), ("steel", "metal", "stainless steel")),
    "plastic": Material(Finish(highlight=0.45, sharpness=5), ("plastic", "glossy plastic", "plst")),
    "wood": Material(Finish(highlight=0.1, sharpness=3, grain=0.07), ("wood", "painted wood", "wooden")),
    "paper": Material(Finish(grain=0.02), ("paper", "cardboard", "card")),
}

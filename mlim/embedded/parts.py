"""What a drawn product is made of: parts, painted one over the other."""

from enum import Enum
from typing import NamedTuple

from mlim.embedded.geometry import Outline


class Tone(Enum):
    """Which colour a part takes."""

    BODY = "body"  # the product's colour and pattern
    DEEP = "deep"  # the same, in shade (a far handle, an inner side)
    TRIM = "trim"  # the product's second colour, without pattern
    LIGHT = "light"  # soles, pages, laces
    DARK = "dark"  # openings, wheels
    METAL = "metal"
    WOOD = "wood"


class Part(NamedTuple):
    """One outline; `puff` is how far from its edge it bends away from the camera (object units, 0 = flat)."""

    outline: Outline
    tone: Tone = Tone.BODY
    puff: float = 0.03


Parts = tuple[Part, ...]

"""Patterns: where on a product its second colour shows. Visible in the picture, never named in a text.

Each takes object coordinates (u, v) and gives the share of the second colour, 0..1, in the same shape.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]
Pattern = Callable[[Field, Field], Field]

# Periods in object units: wide enough to survive a picture of 64 x 64 pixels (0.1 is 6 pixels there).
STRIPE_PERIOD, STRIPE_SHARE = 0.15, 0.45
DOT_PITCH, DOT_RADIUS = 0.15, 0.06
CHECK_PERIOD = 0.19
BLOCK_EDGE = 0.52


def solid(u: Field, v: Field) -> Field:
    """No second colour anywhere."""
    return np.zeros_like(u)


def stripes(u: Field, v: Field) -> Field:
    """Bands across."""
    return ((v / STRIPE_PERIOD) % 1 < STRIPE_SHARE).astype(np.float32)


def dots(u: Field, v: Field) -> Field:
    """Discs, every other row moved by half a step."""
    row = np.floor(v / DOT_PITCH)
    across = (u / DOT_PITCH + 0.5 * (row % 2)) % 1 - 0.5
    down = v / DOT_PITCH - row - 0.5
    inside: Field = (across * across + down * down < (DOT_RADIUS / DOT_PITCH) ** 2).astype(np.float32)
    return inside


def checks(u: Field, v: Field) -> Field:
    """Gingham: two sets of bands, darkest where they cross."""
    across, down = (u / CHECK_PERIOD) % 1 < 0.5, (v / CHECK_PERIOD) % 1 < 0.5
    return (across.astype(np.float32) + down.astype(np.float32)) / 2


def block(u: Field, v: Field) -> Field:
    """The lower half in the second colour."""
    return (v > BLOCK_EDGE).astype(np.float32)


PATTERNS: Mapping[str, Pattern] = {
    "solid": solid,
    "stripes": stripes,
    "dots": dots,
    "checks": checks,
    "block": block,
}

"""What an answer depends on, or where a word looks, over a picture: what counts stays bright."""

import math
from collections.abc import Sequence

from markupsafe import Markup

DARKEST = 0.6  # opacity over cells without which the answer stays as likely
LEAST = 0.05  # fall of a log-probability that is shown: less is nothing


def dependence_overlay(falls: Sequence[float]) -> Markup | None:
    """Darkness over the square cells of a picture, row by row; None where no cell counts."""
    if not len(falls) or max(falls) < LEAST:
        return None
    return _darkened(falls, "depends most on")


def attention_overlay(shares: Sequence[float]) -> Markup | None:
    """Darkness between the cell with the most attention, which has none, and that with the least; None: all alike."""
    least = min(shares)
    return None if max(shares) <= least else _darkened([share - least for share in shares], "looks most at")


def _darkened(falls: Sequence[float], verb: str) -> Markup:
    side, most = math.isqrt(len(falls)), max(falls)
    cell = Markup('<rect x="{}" y="{}" width="1" height="1" opacity="{:.2f}"/>')
    drawn = [
        cell.format(place % side, place // side, DARKEST * (1 - max(fall, 0.0) / most))
        for place, fall in enumerate(falls)
    ]
    row, column = divmod(list(falls).index(most), side)
    said = f"{verb} row {row + 1}, column {column + 1} of {side}"
    return Markup('<svg class="depends" viewBox="0 0 {0} {0}" role="img" aria-label="{1}">{2}</svg>').format(
        side, said, Markup("").join(drawn)
    )

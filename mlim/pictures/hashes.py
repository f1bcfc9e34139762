"""Perceptual hashes: bits that pictures share when they look alike.

C. Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010). All are the bits that imagehash
4.3 gives, but for `stored_hash`, which is of box means.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dct

SIDE: Final = 8  # bits of a hash, squared
CELLS: Final = 32  # per side of the grey picture whose frequencies are taken
MIDDLE: Final = slice(SIDE**2 // 2 - 1, SIDE**2 // 2 + 1)  # the two ranks between which the median lies
GREY = "L"
LEVELS: Final = 256
BLACK_BELOW: Final = LEVELS // 8  # of the grey level
GREYISH_BELOW: Final = LEVELS // 3  # of the saturation
BRIGHT_ABOVE: Final = LEVELS * 2 // 3  # of the saturation
HUES: Final = 6
EIGHTHS: Final = 8

Bits = NDArray[np.bool_]


def stored_hash(grey: Image.Image) -> str:
    """64 bits as hexadecimal: which of the 8 x 8 lowest frequencies of a grey picture lie above their median.

    Of box means, which cost less than half of a smooth reduction and see every pixel.
    """
    cells = np.asarray(grey.resize((CELLS, CELLS), Image.Resampling.BOX), dtype=np.float64)
    basis = _cosines()
    low = basis @ cells @ basis.T
    below, above = np.sort(low, axis=None)[MIDDLE]  # np.median takes longer than the transform
    return np.packbits(low > (below + above) / 2).tobytes().hex()


@cache
def _cosines() -> NDArray[np.float64]:
    """The lowest basis vectors of the discrete cosine transform (SIDE, CELLS)."""
    frequencies, places = np.arange(SIDE)[:, None], np.arange(CELLS)[None, :]
    return np.cos(np.pi * frequencies * (2 * places + 1) / (2 * CELLS))


def frequency_bits(picture: Image.Image) -> Bits:
    """Which of the 8 x 8 lowest frequencies lie above their median (64,)."""
    grey = np.asarray(picture.convert(GREY).resize((CELLS, CELLS), Image.Resampling.LANCZOS))
    low = dct(dct(grey.astype(np.float64), axis=0), axis=1)[:SIDE, :SIDE]
    bits: Bits = (low > np.median(low)).ravel()
    return bits


def gradient_bits(picture: Image.Image) -> Bits:
    """Where the grey level rises from left to right (64,)."""
    grey = np.asarray(picture.convert(GREY).resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS))
    bits: Bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return bits


def colour_bits(picture: Image.Image) -> Bits:
    """Shares of black, of grey and, among the rest, of six faint and six bright hues, three bits each (42,).

    The bits say of a share in eighths whether it is at least four, at least two, and odd.
    """
    grey = np.asarray(picture.convert(GREY))
    hue, saturation, _ = (np.asarray(band) for band in picture.convert("HSV").split())
    black = grey < BLACK_BELOW
    greyish = ~black & (saturation < GREYISH_BELOW)
    coloured = ~black & (saturation >= GREYISH_BELOW)
    whole = max(1, int(coloured.sum()))
    edges = np.linspace(0, LEVELS - 1, HUES + 1)
    faint_and_bright = (saturation < BRIGHT_ABOVE, saturation > BRIGHT_ABOVE)
    counts = [np.histogram(hue[coloured & there], bins=edges)[0] for there in faint_and_bright]
    of_all = [int(black.mean() * EIGHTHS), int(greyish.mean() * EIGHTHS)]
    of_coloured = [int(count) * EIGHTHS // whole for counted in counts for count in counted]
    eighths = np.minimum([*of_all, *of_coloured], EIGHTHS - 1)
    bits: Bits = np.stack([eighths >= 4, eighths >= 2, eighths % 2 == 1], axis=1).ravel()
    return bits

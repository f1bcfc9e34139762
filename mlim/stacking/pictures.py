"""What is measured on a picture: hashes, colours, edges, where in it they lie, its texture, and features of a network.

Hashes, colours and edges are compared between the two items of a pair, textures too by the stack; all but the hashes
are what the classifiers of attributes read. Only features are learned, from other pictures (`stacking/features.py`).
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlim.pairs.similarities import Places, Vector
from mlim.pictures.hashes import colour_bits, frequency_bits, gradient_bits

PICTURE_SIDE: Final = 64  # pixels at which colours and edges are measured, whatever the recipe's size
COLOUR_LEVELS: Final = 4  # per channel; the histogram has this number cubed
ORIENTATIONS: Final = 8  # of edges, in the half circle
EDGE_SCALES: Final = (1, 2, 4)  # pixels from one sample to the next
PIXEL_MAXIMUM: Final = 255
LAYOUT_CELLS: Final = 8  # per side, of which mean and spread of each colour channel are kept
GRADIENT_CELLS: Final = 4  # per side, of which the edges by orientation are kept (histogram of oriented gradients)
RINGS: Final = (1.5, 3.0, 5.0, 8.0, 12.0, 18.0, 26.0)  # bounds of spatial frequencies, periods per picture
CENTRE: Final = slice(PICTURE_SIDE // 4, PICTURE_SIDE - PICTURE_SIDE // 4)  # where the product fills the picture
BRIGHTER: Final = 4  # grey levels by which a neighbour is brighter than its pixel
UNEVEN: Final = 9  # the local binary pattern that stands for all with more than two changes around the pixel
COMMON_COLOURS: Final = 3


class Picture(NamedTuple):
    """What is measured on one picture."""

    perceptual: NDArray[np.bool_]
    difference: NDArray[np.bool_]
    colour: NDArray[np.bool_]
    colours: Vector
    edges: Vector
    layout: Vector
    texture: Vector
    features: Vector  # of a frozen network; empty where none is read

    @property
    def measures(self) -> Vector:
        """Everything that is no hash, in one vector."""
        return np.concatenate([self.colours, self.edges, self.layout, self.texture, self.features])


Measure = Callable[[NDArray[np.uint8]], Picture]
NO_FEATURES: Final = np.empty(0, dtype=np.float32)


def picture_of(pixels: NDArray[np.uint8], features: Vector = NO_FEATURES) -> Picture:
    """Hashes, colour histogram, edge statistics, layout and texture of a (S, S, 3) picture, and its `features`."""
    image = Image.fromarray(pixels)
    small = np.asarray(image.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BILINEAR))
    return Picture(
        perceptual=frequency_bits(image),
        difference=gradient_bits(image),
        colour=colour_bits(image),
        colours=_colours(small),
        edges=_edges(small),
        layout=_layout(small),
        texture=_texture(small),
        features=features,
    )


def to_row(picture: Picture) -> NDArray[np.float32]:
    """All that is measured on a picture as one row of numbers."""
    return np.concatenate([np.asarray(part, dtype=np.float32) for part in picture])


def from_row(row: NDArray[np.float32]) -> Picture:
    """The picture's measures back from the numbers that `to_row` gave."""
    parts = np.split(row, np.cumsum(_lengths()))  # the features are what is left
    kinds = (np.bool_, np.bool_, np.bool_, *[np.float32] * 5)
    return Picture(*(part.astype(kind) for part, kind in zip(parts, kinds, strict=True)))


@cache
def _lengths() -> tuple[int, ...]:
    """How many numbers each measure has, but for the features."""
    black = np.zeros((PICTURE_SIDE, PICTURE_SIDE, 3), dtype=np.uint8)
    return tuple(len(part) for part in picture_of(black)[:-1])


def _colours(pixels: NDArray[np.uint8]) -> Vector:
    """The share of the pixels in each of the colour cube's boxes (COLOUR_LEVELS ** 3,)."""
    red, green, blue = (pixels.reshape(-1, 3).astype(np.int64) * COLOUR_LEVELS // (PIXEL_MAXIMUM + 1)).T
    box = (red * COLOUR_LEVELS + green) * COLOUR_LEVELS + blue
    return (np.bincount(box, minlength=COLOUR_LEVELS**3) / box.size).astype(np.float32)


def _edges(pixels: NDArray[np.uint8]) -> Vector:
    """At each scale: edge strength by orientation, and the mean and spread of the strength."""
    grey = pixels.mean(axis=2) / PIXEL_MAXIMUM
    return np.concatenate([_edges_at(grey[::scale, ::scale]) for scale in EDGE_SCALES]).astype(np.float32)


def _edges_at(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    orientation = np.floor(np.arctan2(down, right) % np.pi / np.pi * ORIENTATIONS).astype(np.int64) % ORIENTATIONS
    by_orientation = np.bincount(orientation.ravel(), strength.ravel(), minlength=ORIENTATIONS) / strength.size
    return np.concatenate([by_orientation, [strength.mean(), strength.std()]])


def _layout(pixels: NDArray[np.uint8]) -> Vector:
    """Mean and spread of the colours in each cell of a coarse grid, and the edges by orientation in a coarser one."""
    scaled = pixels.astype(np.float32) / PIXEL_MAXIMUM
    cells = scaled.reshape(LAYOUT_CELLS, PICTURE_SIDE // LAYOUT_CELLS, LAYOUT_CELLS, -1, pixels.shape[2])
    down, right = np.gradient(scaled.mean(axis=2))
    strength, side = np.hypot(down, right), PICTURE_SIDE // GRADIENT_CELLS
    orientation = np.floor(np.arctan2(down, right) % np.pi / np.pi * ORIENTATIONS).astype(np.int64) % ORIENTATIONS
    rows, columns = np.indices(strength.shape) // side
    place = (rows * GRADIENT_CELLS + columns) * ORIENTATIONS + orientation
    gradients = np.bincount(place.ravel(), strength.ravel(), minlength=GRADIENT_CELLS**2 * ORIENTATIONS) / side**2
    parts = (cells.mean(axis=(1, 3)).ravel(), cells.std(axis=(1, 3)).ravel(), gradients)
    return np.concatenate(parts).astype(np.float32)


def _texture(pixels: NDArray[np.uint8]) -> Vector:
    """What tells stripes, checks, dots and prints: spatial frequencies, local binary patterns, how few colours."""
    grey, centre = pixels.mean(axis=2, dtype=np.float32), pixels[CENTRE, CENTRE]
    inner = grey[CENTRE, CENTRE]
    patterns = [_local_patterns(each) for each in (grey, grey[::2, ::2], inner)]
    return np.concatenate([_spectrum(grey), _spectrum(inner), *patterns, _few_colours(centre)]).astype(np.float32)


def _spectrum(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logarithm of the power in each ring of frequencies and each orientation."""
    side = len(grey)
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window))) ** 2
    down, right = np.indices(power.shape) - side // 2
    ring = np.digitize(np.hypot(down, right), RINGS)
    orientation = np.floor(np.arctan2(down, right) % np.pi / np.pi * ORIENTATIONS).astype(np.int64) % ORIENTATIONS
    place = ring * ORIENTATIONS + orientation
    return np.log1p(np.bincount(place.ravel(), power.ravel(), minlength=(len(RINGS) + 1) * ORIENTATIONS))


def _local_patterns(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of pixels by how many of their eight neighbours are brighter (uniform patterns, Ojala et al. 2002)."""
    height, width = grey.shape
    around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    neighbours = np.stack([grey[down : height - 2 + down, right : width - 2 + right] for down, right in around])
    brighter = neighbours > grey[1:-1, 1:-1] + BRIGHTER
    changes = (brighter != np.roll(brighter, 1, axis=0)).sum(axis=0)
    pattern = np.where(changes <= 2, brighter.sum(axis=0), UNEVEN)
    return np.bincount(pattern.ravel(), minlength=UNEVEN + 1) / pattern.size


def _few_colours(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The entropy of the colours, and the share of the most frequent one and of the most frequent few."""
    levels = 2 * COLOUR_LEVELS
    red, green, blue = (pixels.reshape(-1, 3).astype(np.int64) * levels // (PIXEL_MAXIMUM + 1)).T
    shares = np.bincount((red * levels + green) * levels + blue, minlength=levels**3) / red.size
    held = np.sort(shares[shares > 0])
    return np.array([-(held * np.log(held)).sum(), held[-1], held[-COMMON_COLOURS:].sum()])


def picture_similarities(pictures: Sequence[Picture], first: Places, second: Places) -> dict[str, Vector]:
    """How far apart the hashes, colours and edges of pictures[first] and pictures[second] are, and their mean level."""
    columns: dict[str, Vector] = {}
    for name in ("perceptual", "difference", "colour"):
        bits = np.array([getattr(picture, name) for picture in pictures])
        columns[f"hash:{name}"] = (bits[first] != bits[second]).mean(axis=1).astype(np.float32)
    for name in ("colours", "edges"):
        values = np.array([getattr(picture, name) for picture in pictures])
        apart, level = np.abs(values[first] - values[second]), (values[first] + values[second]) / 2
        columns[f"{name}:distance"] = apart.sum(axis=1)
        columns |= {f"{name}:apart:{number}": apart[:, number] for number in range(apart.shape[1])}
        columns |= {f"{name}:level:{number}": level[:, number] for number in range(level.shape[1])}
    return columns


def texture_similarities(pictures: Sequence[Picture], first: Places, second: Places) -> dict[str, Vector]:
    """How far apart the textures of pictures[first] and pictures[second] are, in each measure and in all."""
    values = np.array([picture.texture for picture in pictures])
    apart = np.abs(values[first] - values[second])
    return {"texture:distance": apart.sum(axis=1)} | {
        f"texture:apart:{number}": apart[:, number] for number in range(apart.shape[1])
    }

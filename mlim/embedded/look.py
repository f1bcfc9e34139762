"""Everything that decides a picture, drawn from a generator; a size is not among it."""

from typing import NamedTuple

import numpy as np

from mlim.embedded.palette import COLOURS, DARK_INK, LIGHT_INK, MATERIALS, Finish, Rgb

LIGHT_PRODUCT = 150.0  # luminance from which a product gets the dark second colour
LUMA = (0.299, 0.587, 0.114)
TINT_SHIFT = 12  # how far a dye lot is off, of 255
BACKGROUNDS: tuple[Rgb, ...] = ((240, 238, 235), (232, 236, 242), (243, 235, 224), (226, 226, 228), (234, 241, 234))
TURN_LYING, TURN_STANDING = 12.0, 3.0  # largest turn of the object, degrees
SHEAR, STRETCH, DRIFT = 0.05, 0.06, 0.025
ZOOM = (0.92, 1.04)
LIGHT_SIDE, LIGHT_ABOVE = (0.35, 0.75), (0.45, 0.8)


class View(NamedTuple):
    """Where the camera is: `matrix` (2x2) and `offset` take centred object coordinates to the picture.

    `scale` is the product's size against that in a picture of its own: relief and shadows shrink with it.
    """

    matrix: tuple[tuple[float, float], tuple[float, float]]
    offset: tuple[float, float]
    scale: float = 1.0


class Look(NamedTuple):
    """A picture before it is rendered."""

    product: str
    pattern: str
    finish: Finish
    body: Rgb
    ink: Rgb
    trim: Rgb
    view: View
    light: tuple[float, float]  # towards the light, picture plane
    background: Rgb
    stands: bool
    noise_seed: int


def draw_look(
    product: str, pattern: str, colour: str, trim: Rgb, material: str, stands: bool, generator: np.random.Generator
) -> Look:
    """A photograph of a product: viewpoint, light, background and dye lot come from `generator`."""
    body = _dye(COLOURS[colour].rgb, generator)
    luminance = sum(share * channel for share, channel in zip(LUMA, body, strict=True))
    side = generator.uniform(*LIGHT_SIDE) * generator.choice([-1, 1])
    return Look(
        product=product,
        pattern=pattern,
        finish=MATERIALS[material].finish,
        body=body,
        ink=DARK_INK if luminance > LIGHT_PRODUCT else LIGHT_INK,
        trim=trim,
        view=_draw_view(stands, generator),
        light=(float(side), -float(generator.uniform(*LIGHT_ABOVE))),
        background=BACKGROUNDS[generator.integers(len(BACKGROUNDS))],
        stands=stands,
        noise_seed=int(generator.integers(2**31)),
    )


def _dye(rgb: Rgb, generator: np.random.Generator) -> Rgb:
    shifted = np.clip(np.array(rgb) + generator.integers(-TINT_SHIFT, TINT_SHIFT + 1, 3), 0, 255)
    return (int(shifted[0]), int(shifted[1]), int(shifted[2]))


def _draw_view(stands: bool, generator: np.random.Generator) -> View:
    limit = TURN_STANDING if stands else TURN_LYING
    angle = np.radians(generator.uniform(-limit, limit))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, generator.uniform(-SHEAR, SHEAR)], [0.0, 1.0]])
    zoom = generator.uniform(*ZOOM)
    stretch = np.diag([zoom * (1 + generator.uniform(-STRETCH, STRETCH)) * generator.choice([-1, 1]), zoom])
    (a, b), (c, d) = (turn @ shear @ stretch).tolist()
    x, y = generator.uniform(-DRIFT, DRIFT, 2).tolist()
    return View(((a, b), (c, d)), (x, y))

"""Renders a look: outlines become masks, masks become rounded surfaces under one lamp, on a studio background."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from mlim.embedded.geometry import Outline
from mlim.embedded.look import Look
from mlim.embedded.palette import LIGHT_INK, Finish, Rgb
from mlim.embedded.parts import Part, Tone
from mlim.embedded.patterns import PATTERNS
from mlim.embedded.products import PRODUCTS

Plane = NDArray[np.floating]  # (height, width)
Pixels = NDArray[np.floating]  # (height, width, 3), 0..1
Normal = tuple[Plane, Plane, Plane]  # right, down, towards the camera

SUPERSAMPLING = 2
AMBIENT, DIFFUSE = 0.42, 0.56
RELIEF = 2.75  # how strongly a puffed edge turns away
LAMP_HEIGHT = 0.75  # the lamp's component towards the camera
DEEP_SHADE = 0.72
SHADOW, CONTACT = 0.38, 0.3  # darkness of the product's shadow, and of a part's shadow on the parts below
SHADOW_BLUR, CONTACT_BLUR = 0.035, 0.012  # of the picture's side
SHADOW_SHIFT = 0.03
FLOOR_FLATTEN, FLOOR_LEAN = 0.16, 6.0  # a standing product's shadow, lying on the floor
FLOOR_EDGE, FLOOR_SOFTNESS, FLOOR_SHADE = 0.22, 0.05, 0.06
VIGNETTE, GLOW = 0.16, 0.07
BANDS = 1.1  # mirror images of the studio across a metal surface
WEAVE_PITCH = 0.045
SENSOR_NOISE = 0.008
SMALLEST_WINDOW = 2  # pixels: a slope needs two of them, also of a part outside the picture
COARSE_STEP = 2.5  # a blur this many times wider than a pixel is computed on coarser pixels
BOX_PASSES = 3  # box blurs in a row come close to a Gaussian blur
FIXED_COLOURS = {Tone.LIGHT: LIGHT_INK, Tone.DARK: (52, 46, 46), Tone.METAL: (188, 192, 198), Tone.WOOD: (160, 112, 66)}
FIXED_FINISHES = {
    Tone.METAL: Finish(highlight=0.7, sharpness=4, bands=0.25),
    Tone.WOOD: Finish(highlight=0.15, sharpness=3, grain=0.05),
    Tone.LIGHT: Finish(),
    Tone.DARK: Finish(),
}


class Window(NamedTuple):
    """The rectangle of the picture that a part can touch, pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    def of(self, plane: Plane | Pixels) -> Plane | Pixels:
        """The view of this window in a whole picture."""
        return plane[self.top : self.bottom, self.left : self.right]


class Studio(NamedTuple):
    """A product's picture in the making: `canvas` (side, side, 3) is painted over, `noise` (side, side) is added."""

    look: Look
    side: int
    canvas: Pixels
    noise: Plane


def render(look: Look, size: int) -> Image.Image:
    """The RGB picture of a look, `size` x `size` pixels; equal looks give equal pixels."""
    return render_all([look], size)


def render_all(looks: Sequence[Look], size: int) -> Image.Image:
    """The RGB picture of several products, painted one after the other on the first one's background."""
    side = size * SUPERSAMPLING
    noise = np.random.default_rng(looks[0].noise_seed).standard_normal((side, side), dtype=np.float32)
    canvas = _background(looks[0], side)
    for look in looks:
        studio = Studio(look, side, canvas, noise)
        parts = [part._replace(outline=part.outline * side) for part in placed_parts(look)]
        _cast_shadow(studio, [part.outline for part in parts])
        for part in parts:
            _paint(studio, part)
    pixels = (np.clip(canvas + SENSOR_NOISE * noise[..., None], 0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX)


def placed_parts(look: Look) -> list[Part]:
    """The product's parts where the picture shows them: x and y in 0..1 of its side, below or above 0..1 outside it."""
    matrix = np.array(look.view.matrix).T
    return [
        part._replace(outline=(part.outline - 0.5) @ matrix + 0.5 + look.view.offset)
        for part in PRODUCTS[look.product].shape()
    ]


def _rgb(colour: Rgb) -> Plane:
    return np.array(colour, dtype=np.float32) / 255


def _background(look: Look, side: int) -> Pixels:
    """A paper backdrop: brighter towards the lamp, darker to the edges; a floor below what stands."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    x, y = axis[None, :], axis[:, None]
    brightness = 1 + GLOW * (x * look.light[0] + y * look.light[1]) - VIGNETTE * (x * x + y * y)
    if look.stands:
        brightness = brightness - FLOOR_SHADE * np.clip((y - FLOOR_EDGE) / FLOOR_SOFTNESS, 0, 1)
    return brightness[..., None] * _rgb(look.background)


def _mask(outlines: Sequence[Outline], window: Window) -> Image.Image:
    image = Image.new("L", window.size)
    draw = ImageDraw.Draw(image)
    for outline in outlines:
        draw.polygon([(x, y) for x, y in (outline - (window.left, window.top)).tolist()], fill=255)
    return image


def _plane(image: Image.Image) -> Plane:
    return np.asarray(image, dtype=np.float32) / 255


def _cast_shadow(studio: Studio, outlines: Sequence[Outline]) -> None:
    """Away from the lamp; on the floor when the product stands, on the backdrop when it lies."""
    side, (toward, _), scale = studio.side, studio.look.light, studio.look.view.scale
    shift = SHADOW_SHIFT * side * scale
    if studio.look.stands:
        ground = max(float(outline[:, 1].max()) for outline in outlines)
        heights = [(ground - outline[:, 1:]) / side for outline in outlines]
        outlines = [
            np.hstack([outline[:, :1] - toward * shift * FLOOR_LEAN * height, ground - FLOOR_FLATTEN * height * side])
            for outline, height in zip(outlines, heights, strict=True)
        ]
    else:
        outlines = [outline + np.array((-toward * shift, shift / 2)) for outline in outlines]
    shadow = _mask(outlines, Window(0, 0, side, side)).filter(ImageFilter.GaussianBlur(SHADOW_BLUR * side * scale))
    studio.canvas[:] *= 1 - SHADOW * _plane(shadow)[..., None]


def _window(outline: Outline, margin: float, side: int) -> Window:
    left, top = np.clip(np.floor(outline.min(axis=0) - margin), 0, side - SMALLEST_WINDOW).astype(int).tolist()
    right, bottom = np.clip(np.ceil(outline.max(axis=0) + margin), 1, side).astype(int).tolist()
    return Window(left, top, max(right, left + SMALLEST_WINDOW), max(bottom, top + SMALLEST_WINDOW))


def _paint(studio: Studio, part: Part) -> None:
    """One part: its contact shadow on what is below, then its lit surface inside its mask."""
    side, scale = studio.side, studio.look.view.scale
    contact = CONTACT_BLUR * side * scale
    window = _window(part.outline, 2 * contact, side)
    mask = _mask([part.outline], window)
    patch = window.of(studio.canvas)
    patch *= 1 - CONTACT * _plane(mask.filter(ImageFilter.GaussianBlur(contact)))[..., None]
    normal = _normal(mask, max(part.puff * side * scale / 2, 1.0))
    patch += _plane(mask)[..., None] * (_lit(studio, part.tone, normal, window) - patch)


def _normal(mask: Image.Image, blur: float) -> Normal:
    """The surface's normal, from a height that falls off towards the edges of the mask."""
    down, right = np.gradient(_height(mask, blur) * np.float32(RELIEF * blur))
    towards = 1 / np.sqrt(1 + right * right + down * down)
    return -right * towards, -down * towards, towards


def _height(mask: Image.Image, blur: float) -> Plane:
    """The mask blurred by about `blur` pixels, without the steps of 8 bits, which highlights would show as rings."""
    step = max(int(blur / COARSE_STEP), 1)
    coarse = _plane(mask.reduce(step))
    radius = max(round(blur / step), 1)
    for _ in range(BOX_PASSES):
        coarse = _box_blur(_box_blur(coarse, radius).T, radius).T
    height = Image.fromarray(np.ascontiguousarray(coarse, dtype=np.float32))
    return np.asarray(height.resize(mask.size, Image.Resampling.BICUBIC), dtype=np.float32)


def _box_blur(plane: Plane, radius: int) -> Plane:
    """The mean over 2 * radius + 1 rows, nothing outside."""
    width = 2 * radius + 1
    sums = np.cumsum(np.pad(plane, ((radius + 1, radius), (0, 0))), axis=0, dtype=np.float64)
    return ((sums[width:] - sums[:-width]) / width).astype(np.float32)


def _colour(studio: Studio, tone: Tone, window: Window) -> Pixels:
    """The unlit colour of every pixel in the window, (height, width, 3), or (1, 1, 3) where it is one colour."""
    look = studio.look
    if tone in FIXED_COLOURS:
        return _rgb(FIXED_COLOURS[tone])[None, None]
    if tone is Tone.TRIM:
        return _rgb(look.trim)[None, None]
    body, ink = _rgb(look.body), _rgb(look.ink)
    share = PATTERNS[look.pattern](*_object_coordinates(studio, window))
    colour: Pixels = body + share[..., None] * (ink - body)
    return colour * np.float32(DEEP_SHADE) if tone is Tone.DEEP else colour


def _object_coordinates(studio: Studio, window: Window) -> tuple[Plane, Plane]:
    """Object coordinates of every pixel: patterns and weaves stay on the product when the camera moves."""
    view = studio.look.view
    (a, b), (c, d) = np.linalg.inv(np.array(view.matrix)).tolist()
    x = np.arange(window.left, window.right)[None, :] / studio.side - 0.5 - view.offset[0]
    y = np.arange(window.top, window.bottom)[:, None] / studio.side - 0.5 - view.offset[1]
    return (a * x + b * y + 0.5).astype(np.float32), (c * x + d * y + 0.5).astype(np.float32)


def _lit(studio: Studio, tone: Tone, normal: Normal, window: Window) -> Pixels:
    """Colour under the lamp: diffuse light, then what the material adds."""
    finish = FIXED_FINISHES.get(tone, studio.look.finish)
    lamp = _unit(*studio.look.light, LAMP_HEIGHT)
    brightness = AMBIENT + DIFFUSE / lamp[2] * _facing(normal, lamp)
    if finish.bands:
        brightness = brightness + finish.bands * _wave(BANDS * normal[0])
    if finish.grain:
        brightness = brightness + finish.grain * window.of(studio.noise)
    if finish.weave:
        brightness = brightness * (1 + finish.weave * _loops(*_object_coordinates(studio, window)))
    lit: Pixels = _colour(studio, tone, window) * brightness[..., None]
    return lit + _highlight(normal, lamp, finish)[..., None] if finish.highlight else lit


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = float(np.sqrt(x * x + y * y + z * z))
    return x / length, y / length, z / length


def _facing(normal: Normal, direction: tuple[float, float, float]) -> Plane:
    """How much the surface faces a direction: the cosine of the angle, 0 when it is turned away."""
    x, y, z = direction
    facing: Plane = np.maximum(normal[0] * x + normal[1] * y + normal[2] * z, 0)
    return facing


def _wave(turns: Plane) -> Plane:
    """Close to sin(2 pi turns), from exact arithmetic only."""
    triangle = 1 - 4 * np.abs((turns + 0.25) % 1 - 0.5)
    result: Plane = triangle * (1.5 - 0.5 * triangle * triangle)
    return result


def _loops(u: Plane, v: Plane) -> Plane:
    """Rows of knitted loops, -1..1."""
    column, row = u / np.float32(WEAVE_PITCH), v / np.float32(WEAVE_PITCH)
    return _wave(column) * _wave(row + np.abs(column % 1 - 0.5))


def _highlight(normal: Normal, lamp: tuple[float, float, float], finish: Finish) -> Plane:
    """The lamp's mirror image (Blinn-Phong with the camera straight ahead)."""
    aligned = _facing(normal, _unit(lamp[0], lamp[1], lamp[2] + 1))
    for _ in range(finish.sharpness):
        aligned = aligned * aligned
    return finish.highlight * aligned

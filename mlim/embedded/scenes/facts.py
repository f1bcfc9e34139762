"""What is in a scene: products with their values and boxes, and the looks that draw them.

Every value comes from a generator seeded by (seed, scene, object, purpose), so that nothing depends on the order of the
work. A product, a colour and a pattern may repeat within a scene, so that there is something to count and compare; each
value is still as frequent as any other.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mlim.embedded.geometry import Outline, clipped
from mlim.embedded.look import Look, View, draw_look
from mlim.embedded.palette import COLOURS
from mlim.embedded.patterns import PATTERNS
from mlim.embedded.products import PRODUCTS
from mlim.embedded.render import placed_parts

# Of these two no part in the product's colour reaches below the edge of a two-tone pattern: it would look plain.
SHOW_NO_TWO_TONE = frozenset({"umbrella", "lamp"})
PLAIN_PRODUCTS = (  # easy to tell apart in a small picture
    "t-shirt", "dress", "boot", "backpack", "guitar", "mug", "bowl", "armchair", "clock", "tent", "bottle", "book",
)  # fmt: skip
PRODUCT_ORDER = tuple(dict.fromkeys((*PLAIN_PRODUCTS, *(name for name in PRODUCTS if name not in SHOW_NO_TWO_TONE))))
COLOUR_ORDER = tuple(dict.fromkeys(("red", "yellow", "green", "navy", "purple", "pink", "orange", "grey", *COLOURS)))
TRIMS = ("cream", "navy", "brown", "red", "grey")
SPLIT_SHARES = (("train", 0.65), ("validation", 0.1), ("test", 0.25))  # of a recipe, unless it says otherwise
REPEAT = 0.35  # probability that a value is that of the object before
SMALL_RASTER, LARGE_RASTER = 2, 3  # slots on a side; the small one holds up to four products
ZOOM, JITTER = (0.75, 1.0), 0.06  # size in a slot; largest shift, as a share of a slot
CROWDED_ZOOM, CROWDED_JITTER = (1.3, 1.8), 0.5  # products overlap
LEAST_VISIBLE = 0.4  # of a product's area; below it is not an object of the scene
VISIBILITY_SIDE = 128  # pixels on which visible areas are counted
BOX_DIGITS = 4
MOST_OBJECTS = LARGE_RASTER**2


class Box(NamedTuple):
    """A box in 0..1 of the picture's width and height: left, top, right, bottom."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


class Object(NamedTuple):
    """One product in a picture, as far as it can be seen."""

    product: str
    colour: str
    pattern: str
    material: str
    box: Box


class Scene(NamedTuple):
    """One picture before it is rendered: `objects` are those that can be seen; `looks` are painted in order."""

    number: int
    split: str
    objects: tuple[Object, ...]
    looks: tuple[Look, ...]


class Difficulty(NamedTuple):
    """How many different products and colours there are, the most objects of one scene, and whether they overlap."""

    products: int = 12
    colours: int = 8
    most: int = 3
    crowded: bool = False

    @property
    def product_names(self) -> tuple[str, ...]:
        """The products that are drawn."""
        return PRODUCT_ORDER[: self.products]

    @property
    def colour_names(self) -> tuple[str, ...]:
        """The colours that are drawn."""
        return COLOUR_ORDER[: self.colours]


class Purpose(IntEnum):
    """What a generator is for; each purpose has its own, so that none shifts another's draws."""

    FACTS = 10
    LOOK = 11
    CAPTIONS = 12
    QUESTIONS = 13
    BALANCE = 14
    STATEMENTS = 15


def generator_of(seed: int, number: int, part: int, purpose: Purpose) -> np.random.Generator:
    """The generator of one scene's (or split's) draws for one purpose."""
    return np.random.default_rng([seed, number, part, purpose])


def draw_scenes(count: int, seed: int, difficulty: Difficulty) -> Iterator[Scene]:
    """`count` scenes; a larger count begins with the same ones."""
    return (_draw_scene(number, seed, difficulty) for number in range(count))


def extent(outlines: Sequence[Outline]) -> Box:
    """The box around what the picture shows of outlines (each (N, 2), in 0..1 of the picture), to four decimals."""
    points = np.concatenate([clipped(outline) for outline in outlines])
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return Box(*(round(value, BOX_DIGITS) for value in (x0, y0, x1, y1)))


def seen_object(look: Look, colour: str, material: str) -> Object:
    """What a look shows: its values and the box around all its parts; shadows do not count."""
    outlines = [part.outline for part in placed_parts(look)]
    return Object(look.product, colour, look.pattern, material, extent(outlines))


class _Values(NamedTuple):
    product: str
    colour: str
    pattern: str
    material: str


def _draw_scene(number: int, seed: int, difficulty: Difficulty) -> Scene:
    generator = generator_of(seed, number, 0, Purpose.FACTS)
    split = _drawn_split(float(generator.random()))
    count = int(generator.integers(1, difficulty.most + 1))
    values = _draw_values(count, difficulty, generator)
    raster = SMALL_RASTER if count <= SMALL_RASTER**2 else LARGE_RASTER
    slots = generator.permutation(raster * raster)[:count].tolist()
    looks = _lit_alike(
        [
            _draw_look(value, slot, raster, difficulty.crowded, generator_of(seed, number, part, Purpose.LOOK))
            for part, (value, slot) in enumerate(zip(values, slots, strict=True))
        ]
    )
    seen = _visible(looks) if difficulty.crowded else [True] * count
    objects = [
        seen_object(look, value.colour, value.material)
        for look, value, visible in zip(looks, values, seen, strict=True)
        if visible
    ]
    return Scene(number, split, tuple(objects), tuple(looks))


def _drawn_split(chance: float) -> str:
    for split, share in SPLIT_SHARES[:-1]:
        if chance < share:
            return split
        chance -= share
    return SPLIT_SHARES[-1][0]


def _draw_values(count: int, difficulty: Difficulty, generator: np.random.Generator) -> list[_Values]:
    values: list[_Values] = []
    for _ in range(count):
        before = values[-1] if values else None
        product = _drawn(difficulty.product_names, before and before.product, generator)
        values.append(
            _Values(
                product,
                _drawn(difficulty.colour_names, before and before.colour, generator),
                _drawn(tuple(PATTERNS), before and before.pattern, generator),
                str(generator.choice(PRODUCTS[product].materials)),
            )
        )
    return values


def _drawn(known: Sequence[str], before: str | None, generator: np.random.Generator) -> str:
    chance, other = generator.random(), str(generator.choice(known))
    return other if before is None or chance >= REPEAT else before


def _draw_look(values: _Values, slot: int, raster: int, crowded: bool, generator: np.random.Generator) -> Look:
    """A product in its slot: its own dye lot, turn and finish; nothing stands on a floor."""
    trim = COLOURS[str(generator.choice(TRIMS))].rgb
    stands = PRODUCTS[values.product].stands
    look = draw_look(values.product, values.pattern, values.colour, trim, values.material, stands, generator)
    return look._replace(view=_in_slot(look.view, slot, raster, crowded, generator), stands=False)


def _in_slot(view: View, slot: int, raster: int, crowded: bool, generator: np.random.Generator) -> View:
    zoom, jitter = (CROWDED_ZOOM, CROWDED_JITTER) if crowded else (ZOOM, JITTER)
    scale = float(generator.uniform(*zoom)) / raster
    (a, b), (c, d) = (np.array(view.matrix) * scale).tolist()
    row, column = divmod(slot, raster)
    shift = generator.uniform(-jitter, jitter, 2) / raster
    middle = (np.array((column, row)) + 0.5) / raster - 0.5
    x, y = (middle + shift + np.array(view.offset) * scale).tolist()
    return View(((a, b), (c, d)), (x, y), scale)


def _lit_alike(looks: Sequence[Look]) -> list[Look]:
    """The looks under the first one's lamp, on its background, with its noise."""
    first = looks[0]
    return [
        look._replace(light=first.light, background=first.background, noise_seed=first.noise_seed) for look in looks
    ]


def _visible(looks: Sequence[Look]) -> list[bool]:
    """Which products show enough of themselves below those that are painted after them."""
    masks = [_mask(look) for look in looks]
    covered = np.zeros_like(masks[0])
    seen: list[bool] = []
    for mask in reversed(masks):
        seen.append(bool((mask & ~covered).sum() >= LEAST_VISIBLE * max(int(mask.sum()), 1)))
        covered |= mask
    return seen[::-1]


def _mask(look: Look) -> NDArray[np.bool_]:
    image = Image.new("1", (VISIBILITY_SIDE, VISIBILITY_SIDE))
    draw = ImageDraw.Draw(image)
    for part in placed_parts(look):
        draw.polygon([(x, y) for x, y in (part.outline * VISIBILITY_SIDE).tolist()], fill=1)
    return np.asarray(image)

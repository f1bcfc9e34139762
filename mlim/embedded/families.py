"""Who is related to whom: families of one product whose members vary in pattern, size and colour.

Pattern and size decide whether two members match; the rest is what differs between any two photographs or texts.
In every family exactly one member has an unusual pattern and one (perhaps the same) an unusual size: all families of
one length have about the same share of matches, so nothing is gained by learning families by heart.
Every draw comes from a generator seeded by (seed, family, member, purpose): nothing depends on the order of the work.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from mlim.catalog.defaults import EMBEDDED_LARGEST_FAMILY
from mlim.embedded.palette import COLOURS, Rgb
from mlim.embedded.products import PRODUCTS

SMALLEST_FAMILY, LARGEST_FAMILY = 4, EMBEDDED_LARGEST_FAMILY
PALETTE_SIZE = 3
TRIM_COLOURS = ("cream", "navy", "brown", "red", "grey")
# Shops sell more plain than patterned things, and more medium than others: common values make the task learnable
# step by step (two plain products match more often than not) before the comparison itself is learned.
PATTERN_SHARES: Mapping[str, float] = {"solid": 0.88, "stripes": 0.03, "dots": 0.03, "checks": 0.03, "block": 0.03}
SIZE_SHARES: Mapping[str, float] = {"medium": 0.88, "small": 0.04, "large": 0.04, "giant": 0.04}
BRANDS = (
    "alma", "borea", "corvo", "delfi", "estro", "fjell", "galea", "holm", "ilva", "junta", "kestrel", "lumo",
    "miro", "nadir", "orsa", "pavo", "quill", "rovere", "solvi", "talla", "umbra", "vento", "wilma", "zefir",
)  # fmt: skip


class Draw(IntEnum):
    """What a generator is for; each purpose has its own, so that none shifts another's draws."""

    FACTS = 0
    LOOK = 1
    TEXT = 2
    NAMED = 3
    CAPTIONS = 4
    QUESTIONS = 5
    STATEMENTS = 6


class Variation(NamedTuple):
    """How a family varies in one attribute: all members have the usual value but one, which has the unusual one."""

    usual: str
    unusual: str
    odd_member: int

    def of(self, member: int) -> str:
        """The value of a member."""
        return self.unusual if member == self.odd_member else self.usual


class Family(NamedTuple):
    """One product of one brand: what its members share, and how they vary."""

    number: int
    members: int
    product: str
    brand: str
    material: str
    purpose: str
    trim: Rgb
    pattern: Variation
    size: Variation
    palette: tuple[str, ...]


class Member(NamedTuple):
    """The truth about one item."""

    family: Family
    number: int
    pattern: str
    size: str
    colour: str


def generator_for(seed: int, family: int, member: int, draw: Draw) -> np.random.Generator:
    """The generator of one member's draws for one purpose."""
    return np.random.default_rng([seed, family, member, draw])


def draw_members(items: int, seed: int) -> Iterator[Member]:
    """Exactly `items` members (at least SMALLEST_FAMILY) in families of SMALLEST_FAMILY to LARGEST_FAMILY."""
    for number, members in enumerate(_family_sizes(items, seed)):
        family = _draw_family(number, members, np.random.default_rng([seed, number]))
        for member in range(members):
            generator = generator_for(seed, number, member, Draw.FACTS)
            yield Member(
                family=family,
                number=member,
                pattern=family.pattern.of(member),
                size=family.size.of(member),
                colour=str(generator.choice(family.palette)),
            )


def _family_sizes(items: int, seed: int) -> Iterator[int]:
    generator = np.random.default_rng(seed)
    left = items
    while left:
        members = min(int(generator.integers(SMALLEST_FAMILY, LARGEST_FAMILY + 1)), left)
        if 0 < left - members < SMALLEST_FAMILY:  # leave no family too small
            members = left if left <= LARGEST_FAMILY else left - SMALLEST_FAMILY
        yield members
        left -= members


def _draw_family(number: int, members: int, generator: np.random.Generator) -> Family:
    name = str(generator.choice(list(PRODUCTS)))
    product = PRODUCTS[name]
    return Family(
        number=number,
        members=members,
        product=name,
        brand=str(generator.choice(BRANDS)),
        material=str(generator.choice(product.materials)),
        purpose=str(generator.choice(product.purposes)),
        trim=COLOURS[str(generator.choice(TRIM_COLOURS))].rgb,
        pattern=_draw_variation(PATTERN_SHARES, members, generator),
        size=_draw_variation(SIZE_SHARES, members, generator),
        palette=tuple(str(name) for name in generator.choice(list(COLOURS), PALETTE_SIZE, replace=False)),
    )


def _weighted(shares: Mapping[str, float], generator: np.random.Generator) -> str:
    weights = np.array(list(shares.values()))
    return str(generator.choice(list(shares), p=weights / weights.sum()))


def _draw_variation(shares: Mapping[str, float], members: int, generator: np.random.Generator) -> Variation:
    usual = _weighted(shares, generator)
    unusual = _weighted({name: share for name, share in shares.items() if name != usual}, generator)
    return Variation(usual, unusual, odd_member=int(generator.integers(members)))

"""What a shop writes about an item: synonyms, abbreviations, changing order, gaps and a few mistakes.

The size is written, but not always in the same column or with the same word. The pattern is not written, unless the
catalog is asked to name it in a share of the items.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlim.embedded.families import Member
from mlim.embedded.palette import COLOURS, MATERIALS
from mlim.embedded.products import PRODUCTS

SIZE_WORDS: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "S"),
    "medium": ("medium", "M"),
    "large": ("large", "L"),
    "giant": ("giant", "XL"),
}
PATTERN_WORDS: Mapping[str, tuple[str, ...]] = {
    "solid": ("plain", "solid"),
    "stripes": ("striped", "stripes"),
    "dots": ("dotted", "polka"),
    "checks": ("checked", "gingham"),
    "block": ("two-tone", "block"),
}
SIZE_PHRASES = ("{}", "size {}", "{} size", "size: {}", "in {}")
TITLES = ("{brand} {colour} {type}", "{colour} {type} {brand}", "{type} {brand} {colour}", "{brand} {type} {colour}")
TITLES_WITH_SIZE = ("{title} {size}", "{title}, {size}", "{size} {title}")

USUAL_WORD = 0.55  # probability of a colour's, material's or product's first word
COLOUR_IN_TITLE, SIZE_IN_TITLE = 0.5, 0.4
MISSING_SIZE, WRONG_SIZE = 0.03, 0.02
MISSING_COLOUR, WRONG_COLOUR = 0.08, 0.03
MISSING_MATERIAL, MISSING_PURPOSE = 0.12, 0.3
SHOUTED = 0.06  # a title in capitals

_SIZE_OF_WORD = {word.lower(): size for size, words in SIZE_WORDS.items() for word in words}
_PATTERN_OF_WORD = {word: pattern for pattern, words in PATTERN_WORDS.items() for word in words}
_WORD = re.compile(r"[a-z]+")
_HYPHENED = re.compile(r"[a-z-]+")


class Texts(NamedTuple):
    """The columns a model may read; an empty one is missing."""

    title: str
    colour: str
    material: str
    details: str


def write_texts(member: Member, generator: np.random.Generator) -> Texts:
    """The texts of one item; colour and size may be missing or wrong, the pattern is never told."""
    family = member.family
    colour = _dirty(member.colour, list(COLOURS), MISSING_COLOUR, WRONG_COLOUR, generator)
    size = _dirty(member.size, list(SIZE_WORDS), MISSING_SIZE, WRONG_SIZE, generator)
    size_word = str(generator.choice(SIZE_WORDS[size])) if size else ""
    in_title = generator.random() < SIZE_IN_TITLE
    material = "" if generator.random() < MISSING_MATERIAL else _synonym(MATERIALS[family.material].words, generator)
    return Texts(
        title=_title(member, colour, size_word if in_title else "", generator),
        colour=_synonym(COLOURS[colour].words, generator) if colour else "",
        material=material,
        details=_details(family.purpose, "" if in_title else size_word, generator),
    )


def name_pattern(texts: Texts, pattern: str, share: float, generator: np.random.Generator) -> Texts:
    """The texts with the pattern in the title of a `share` of the items, in one of two words; never a wrong one."""
    if generator.random() >= share:
        return texts
    word = str(generator.choice(PATTERN_WORDS[pattern]))
    return texts._replace(title=f"{word.upper() if texts.title.isupper() else word} {texts.title}")


def read_pattern(texts: Sequence[str]) -> str | None:
    """The pattern that an item's texts name; None when they do not."""
    words = (word for text in texts for word in _HYPHENED.findall(text.lower()))
    return next((_PATTERN_OF_WORD[word] for word in words if word in _PATTERN_OF_WORD), None)


def read_size(texts: Sequence[str]) -> str | None:
    """The size that a reader who knows every word finds in an item's texts; None when none is written."""
    found = {_SIZE_OF_WORD[word] for text in texts for word in _WORD.findall(text.lower()) if word in _SIZE_OF_WORD}
    return min(found) if found else None


def _dirty(truth: str, known: Sequence[str], missing: float, wrong: float, generator: np.random.Generator) -> str:
    """The truth, or nothing, or (rarely) another known value."""
    chance = generator.random()
    other = str(generator.choice([name for name in known if name != truth]))
    return "" if chance < missing else other if chance < missing + wrong else truth


def _synonym(words: Sequence[str], generator: np.random.Generator) -> str:
    return words[0] if generator.random() < USUAL_WORD else str(generator.choice(words))


def _title(member: Member, colour: str, size_word: str, generator: np.random.Generator) -> str:
    named = colour if generator.random() < COLOUR_IN_TITLE else ""
    title = str(generator.choice(TITLES)).format(
        brand=member.family.brand.capitalize(),
        colour=_synonym(COLOURS[named].words, generator) if named else "",
        type=_synonym(PRODUCTS[member.family.product].words, generator),
    )
    title = " ".join(title.split())
    if size_word:
        title = str(generator.choice(TITLES_WITH_SIZE)).format(title=title, size=size_word)
    return title.upper() if generator.random() < SHOUTED else title


def _details(purpose: str, size_word: str, generator: np.random.Generator) -> str:
    phrases = [] if generator.random() < MISSING_PURPOSE else [purpose]
    if size_word:
        phrases.append(str(generator.choice(SIZE_PHRASES)).format(size_word))
    return ", ".join(str(phrase) for phrase in generator.permutation(phrases))

"""Statements about two pictures: each sentence with four pairs of pictures, of which two make it true and two false."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlim.embedded.scenes.facts import Difficulty, Object, Purpose, Scene, generator_of
from mlim.embedded.scenes.questions import SPOKEN, Draw, Fields, read, say
from mlim.embedded.scenes.words import PATTERN_NAMES

PAIRS_PER_SENTENCE = 4
TRIES = 400  # pairs of pictures that are tried for one sentence
SENTENCES_PER_SCENE = 0.5

Objects = Sequence[Object]


class Saying(NamedTuple):
    """A template: its words, its truth for two pictures, and the fields that it has."""

    words: str
    truth: Callable[[Objects, Objects, Fields], bool]
    fields: tuple[str, ...]


class Stated(NamedTuple):
    """A sentence with its pairs of scenes (left, right, whether it is true of them)."""

    text: str
    pairs: tuple[tuple[Scene, Scene, bool], ...]


def state(scenes: Sequence[Scene], seed: int, part: int, difficulty: Difficulty) -> Iterator[Stated]:
    """Sentences about scenes of one split, one for every two scenes; pictures never leave their split."""
    for number in range(int(SENTENCES_PER_SCENE * len(scenes))):
        draw = Draw(difficulty, generator_of(seed, number, part, Purpose.STATEMENTS))
        saying = SAYINGS[number % len(SAYINGS)]
        fields = {name: _drawn(name, draw) for name in saying.fields}
        pairs = find_pairs(saying, fields, scenes, draw.generator)
        if pairs:
            yield Stated(say(saying.words, fields), pairs)


def truth_of(text: str, left: Objects, right: Objects) -> bool | None:
    """The truth for a reader who knows every template and sees the facts; None when it does not understand."""
    found = read(text, [saying.words for saying in SAYINGS])
    return None if found is None else SAYINGS[found[0]].truth(left, right, found[1])


def _drawn(name: str, draw: Draw) -> str:
    known: Mapping[str, Sequence[str]] = {
        "product": draw.difficulty.product_names,
        "colour": draw.difficulty.colour_names,
        "pattern": tuple(PATTERN_NAMES),
        "number": [value for value in SPOKEN["number"] if 2 <= int(value) <= draw.difficulty.most],
    }
    return draw.one(known[name]) or ""


def find_pairs(
    saying: Saying, fields: Fields, scenes: Sequence[Scene], generator: np.random.Generator
) -> tuple[tuple[Scene, Scene, bool], ...]:
    """Two pairs that make the sentence true and two that make it false, in random order; empty when too few are found.

    Half of the pictures are drawn among those that show what the sentence names: a pair that shows nothing of it
    would make it too easy.
    """
    about = [scene for scene in scenes if _shows(scene, fields)]
    found: dict[bool, dict[tuple[int, int], tuple[Scene, Scene, bool]]] = {True: {}, False: {}}
    for _ in range(TRIES):
        if all(len(pairs) == PAIRS_PER_SENTENCE // 2 for pairs in found.values()):
            break
        left, right = (_one(about if about and generator.integers(2) else scenes, generator) for _ in range(2))
        if left.number != right.number:
            truth = saying.truth(left.objects, right.objects, fields)
            if len(found[truth]) < PAIRS_PER_SENTENCE // 2:
                found[truth][left.number, right.number] = (left, right, truth)
    pairs = [*found[True].values(), *found[False].values()]
    return (
        tuple(pairs[place] for place in generator.permutation(len(pairs))) if len(pairs) == PAIRS_PER_SENTENCE else ()
    )


def _one(scenes: Sequence[Scene], generator: np.random.Generator) -> Scene:
    return scenes[int(generator.integers(len(scenes)))]


def _shows(scene: Scene, fields: Fields) -> bool:
    named = {name: value for name, value in fields.items() if name != "number"}
    return any(all(getattr(thing, name) == value for name, value in named.items()) for thing in scene.objects)


def _count(objects: Objects, fields: Fields) -> int:
    """The objects with all named values."""
    named = {name: value for name, value in fields.items() if name != "number"}
    return sum(all(getattr(thing, name) == value for name, value in named.items()) for thing in objects)


def _in_all(left: Objects, right: Objects, fields: Fields) -> bool:
    return _count(left, fields) + _count(right, fields) == int(fields["number"])


def _both_show(left: Objects, right: Objects, fields: Fields) -> bool:
    return _count(left, fields) > 0 and _count(right, fields) > 0


def _one_shows(left: Objects, right: Objects, fields: Fields) -> bool:
    return (_count(left, fields) > 0) != (_count(right, fields) > 0)


def _left_has_more(left: Objects, right: Objects, fields: Fields) -> bool:
    return _count(left, fields) > _count(right, fields)


def _right_shows(left: Objects, right: Objects, fields: Fields) -> bool:
    return _count(right, fields) > 0


SAYINGS = (
    Saying("the two pictures show {number} {products} in all.", _in_all, ("number", "product")),
    Saying("the two pictures show {number} {colour} products in all.", _in_all, ("number", "colour")),
    Saying("the left picture shows more products than the right picture.", _left_has_more, ()),
    Saying("the left picture shows more {pattern} products than the right picture.", _left_has_more, ("pattern",)),
    Saying("both pictures show a {product}.", _both_show, ("product",)),
    Saying("exactly one of the pictures shows a {colour} {product}.", _one_shows, ("colour", "product")),
    Saying("the right picture shows a {pattern} {product}.", _right_shows, ("pattern", "product")),
)

"""How scenes are told: names of products, colours and patterns, and captions."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mlim.embedded.palette import COLOURS
from mlim.embedded.products import PRODUCTS
from mlim.embedded.scenes.facts import Object
from mlim.embedded.wording import PATTERN_WORDS

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LEAST_DISTANCE = 0.1  # of two centres, before one is called left of or above the other

NOUNS: Mapping[str, str] = {
    name: "pair of trousers" if name == "trousers" else product.words[0] for name, product in PRODUCTS.items()
}
COLOUR_NAMES: Mapping[str, str] = {name: colour.words[0] for name, colour in COLOURS.items()}
PATTERN_NAMES: Mapping[str, str] = {name: words[0] for name, words in PATTERN_WORDS.items()}


def _plural(noun: str) -> str:
    if noun.startswith("pair of"):
        return noun.replace("pair", "pairs", 1)
    if noun.endswith("f"):
        return f"{noun[:-1]}ves"
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"


PLURALS: Mapping[str, str] = {name: _plural(noun) for name, noun in NOUNS.items()}
VALUES: Mapping[str, Mapping[str, str]] = {"colour": COLOUR_NAMES, "pattern": PATTERN_NAMES}


def with_article(words: str) -> str:
    """`a mug`, `an umbrella`."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def write_captions(objects: Sequence[Object], generator: np.random.Generator, told: Sequence[str]) -> list[str]:
    """Captions of what can be seen, the one that says most first, each once.

    `told` are the attributes that may be named (`colour`, `pattern`); brand and size are not visible and never are.
    """
    everything = _listed(objects, told, generator)
    captions = [everything, f"there {_be(len(objects))} {_total(len(objects))}: {everything}"]
    captions += [f"a picture of {_listed(objects, [attribute], generator)}" for attribute in told]
    captions.append(_beside(objects, generator) or f"a photo of {_listed(objects, [], generator)}")
    return list(dict.fromkeys(captions))


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _total(count: int) -> str:
    return f"{NUMBERS[count]} product{'' if count == 1 else 's'}"


def _listed(objects: Sequence[Object], told: Sequence[str], generator: np.random.Generator) -> str:
    """`a red striped mug and two plain boots`: like objects are counted together."""
    groups = Counter((*(VALUES[name][getattr(thing, name)] for name in told), thing.product) for thing in objects)
    keys = list(groups)
    phrases = [_phrase(keys[place], groups[keys[place]]) for place in generator.permutation(len(keys))]
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _phrase(key: tuple[str, ...], count: int) -> str:
    *adjectives, product = key
    if count == 1:
        return with_article(" ".join((*adjectives, NOUNS[product])))
    return " ".join((NUMBERS[count], *adjectives, PLURALS[product]))


def _beside(objects: Sequence[Object], generator: np.random.Generator) -> str | None:
    """Where two products of the scene are, which no third could be taken for."""
    once = [thing for thing in objects if sum(thing.product == other.product for other in objects) == 1]
    places = [
        (first, second, word) for first in once for second in once for word in RELATIONS if related(first, second, word)
    ]
    if not places:
        return None
    first, second, word = places[int(generator.integers(len(places)))]
    return f"{with_article(NOUNS[first.product])} {word} {with_article(NOUNS[second.product])}"


def related(first: Object, second: Object, word: str) -> bool:
    """Whether the first object lies on that side of the second, by `LEAST_DISTANCE` or more."""
    return RELATIONS[word](first, second) >= LEAST_DISTANCE


RELATIONS: Mapping[str, Callable[[Object, Object], float]] = {  # how far the first lies on that side of the second
    "left of": lambda first, second: second.box.centre[0] - first.box.centre[0],
    "right of": lambda first, second: first.box.centre[0] - second.box.centre[0],
    "above": lambda first, second: second.box.centre[1] - first.box.centre[1],
}

"""Questions about a scene: templates that ask, answer from the facts, and can be read again from their words."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from mlim.embedded.scenes.facts import Difficulty, Object
from mlim.embedded.scenes.words import COLOUR_NAMES, NOUNS, PATTERN_NAMES, PLURALS, RELATIONS, related

YES, NO = "yes", "no"
MOST_COUNTED = 4
Kind = Literal["binary", "number", "open"]
Objects = Sequence[Object]
Fields = Mapping[str, str]
SPOKEN: Mapping[str, Mapping[str, str]] = {  # how the value of a field is said
    "product": NOUNS,
    "other": NOUNS,
    "products": PLURALS,
    "others": PLURALS,
    "colour": COLOUR_NAMES,
    "pattern": PATTERN_NAMES,
    "number": {str(count): str(count) for count in range(2 * MOST_COUNTED + 1)},
}


class Draw(NamedTuple):
    """What a template draws its questions with."""

    difficulty: Difficulty
    generator: np.random.Generator

    def one(self, values: Iterable[str]) -> str | None:
        """One of the values; None when there is none."""
        known = list(values)
        return known[int(self.generator.integers(len(known)))] if known else None

    def heads(self) -> bool:
        """True or false, each half of the time."""
        return bool(self.generator.integers(2))


class Template(NamedTuple):
    """One kind of question: its words with `{fields}`, its answer (None: it has none), and fields for a scene."""

    name: str
    kind: Kind
    words: str
    answer: Callable[[Objects, Fields], str | None]
    propose: Callable[[Objects, Draw], Iterable[Fields]]


class Asked(NamedTuple):
    """A question that a scene answers."""

    template: Template
    fields: Fields
    text: str
    answer: str


def ask(objects: Objects, draw: Draw, told: Sequence[str]) -> list[Asked]:
    """Candidates of every template about a scene; only attributes of `told` (colour, pattern, material) are asked."""
    return [
        Asked(template, fields, say(template.words, fields), answer)
        for template in TEMPLATES
        if _may_be_asked(template, told)
        for fields in template.propose(objects, draw)
        if (answer := template.answer(objects, fields)) is not None
    ]


def _may_be_asked(template: Template, told: Sequence[str]) -> bool:
    return all(name in told or name not in template.name for name in ("colour", "pattern", "material"))


def say(words: str, fields: Fields) -> str:
    """The sentence of a template, `a` turned into `an` where it belongs."""
    spoken = {name: SPOKEN[name][value] for name, value in fields.items()}
    spoken |= {f"{name}s": PLURALS[fields[name]] for name in ("product", "other") if name in fields}
    return re.sub(r"\ba (?=[aeiou])", "an ", words.format(**spoken))


def read(text: str, templates: Sequence[str]) -> tuple[int, Fields] | None:
    """The template (its place) whose words a sentence has, and the values in it; None for any other sentence."""
    for place, words in enumerate(templates):
        found = _pattern(words).fullmatch(text)
        if found:
            values = {name: _value(name, spoken) for name, spoken in found.groupdict().items()}
            return place, {name.removesuffix("s"): value for name, value in values.items()}
    return None


@cache
def _pattern(words: str) -> re.Pattern[str]:
    spoken = {name: f"(?P<{name}>{'|'.join(map(re.escape, values.values()))})" for name, values in SPOKEN.items()}
    escaped = re.escape(words).replace(r"\{", "{").replace(r"\}", "}").replace(r"a\ ", r"an?\ ")
    return re.compile(escaped.format(**spoken))


def _value(name: str, spoken: str) -> str:
    return next(value for value, words in SPOKEN[name].items() if words == spoken)


def answer_to(text: str, objects: Objects) -> str | None:
    """The answer of a reader who knows every template and sees the facts; None when it does not understand."""
    found = read(text, [template.words for template in TEMPLATES])
    return None if found is None else TEMPLATES[found[0]].answer(objects, found[1])


def entails(asked: Asked, other: Asked) -> bool:
    """Whether the answer of one question decides another, yes-or-no question about the same scene."""
    mine, fields = asked.template.name, asked.fields
    if other.template.kind != "binary" or asked.text == other.text:
        return False
    match other.template.name:
        case "exists":
            names_it = fields.get("product") == other.fields["product"] and mine != "more"
            return names_it and other.answer == (NO if asked.answer == "0" else YES)
        case "colour-is":
            same = fields.get("product") == other.fields["product"]
            both = mine == "both-colour" and asked.answer == YES and other.fields["colour"] == fields["colour"]
            named = other.fields["product"] in (fields.get("product"), fields.get("other"))
            return (same and mine == "colour") or (both and named)
        case "pattern-is":
            return mine == "pattern" and fields["product"] == other.fields["product"]
        case _:
            return False


def _once(objects: Objects) -> list[Object]:
    """The objects whose product is unique in the scene, which `the mug` can name."""
    counts = Counter(thing.product for thing in objects)
    return [thing for thing in objects if counts[thing.product] == 1]


def _the(objects: Objects, product: str) -> Object | None:
    return next((thing for thing in _once(objects) if thing.product == product), None)


def _said(truth: bool) -> str:
    return YES if truth else NO


def _count(objects: Objects, name: str, value: str) -> int:
    return sum(getattr(thing, name) == value for thing in objects)


def _exists(objects: Objects, fields: Fields) -> str:
    return _said(_count(objects, "product", fields["product"]) > 0)


def _propose_exists(objects: Objects, draw: Draw) -> list[Fields]:
    present = [thing.product for thing in objects]
    absent = [name for name in draw.difficulty.product_names if name not in present]
    return [{"product": name} for name in (draw.one(present), draw.one(absent)) if name]


def _is(name: str) -> Callable[[Objects, Fields], str | None]:
    def answer(objects: Objects, fields: Fields) -> str | None:
        thing = _the(objects, fields["product"])
        return None if thing is None else _said(getattr(thing, name) == fields[name])

    return answer


def _known(name: str, difficulty: Difficulty) -> tuple[str, ...]:
    return difficulty.colour_names if name == "colour" else tuple(PATTERN_NAMES)


def _propose_is(name: str) -> Callable[[Objects, Draw], list[Fields]]:
    def propose(objects: Objects, draw: Draw) -> list[Fields]:
        product = draw.one(thing.product for thing in _once(objects))
        if product is None:
            return []
        true = getattr(_the(objects, product), name)
        wrong = draw.one(value for value in _known(name, draw.difficulty) if value != true)
        return [{"product": product, name: true if draw.heads() or wrong is None else wrong}]

    return propose


def _more(objects: Objects, fields: Fields) -> str | None:
    mine, others = (_count(objects, "product", fields[name]) for name in ("product", "other"))
    return _said(mine > others) if mine or others else None


def _propose_more(objects: Objects, draw: Draw) -> list[Fields]:
    product = draw.one(thing.product for thing in objects)
    present = [thing.product for thing in objects if thing.product != product]
    other = draw.one(present) or draw.one(name for name in draw.difficulty.product_names if name != product)
    return [] if product is None or other is None else [_either(product, other, draw)]


def _either(first: str, second: str, draw: Draw) -> Fields:
    """Which of two is named first tells nothing."""
    first, second = (first, second) if draw.heads() else (second, first)
    return {"product": first, "other": second}


def _left(objects: Objects, fields: Fields) -> str | None:
    first, second = _the(objects, fields["product"]), _the(objects, fields["other"])
    if first is None or second is None or first is second:
        return None
    if not (related(first, second, "left of") or related(first, second, "right of")):
        return None
    return _said(related(first, second, "left of"))


def _two(objects: Objects, draw: Draw) -> Fields | None:
    first = draw.one(thing.product for thing in _once(objects))
    second = draw.one(thing.product for thing in _once(objects) if thing.product != first)
    return None if first is None or second is None else _either(first, second, draw)


def _propose_left(objects: Objects, draw: Draw) -> list[Fields]:
    two = _two(objects, draw)
    return [] if two is None else [two]


def _both(objects: Objects, fields: Fields) -> str | None:
    named = [_the(objects, fields[name]) for name in ("product", "other")]
    if named[0] is named[1] or None in named:
        return None
    return _said(all(thing is not None and thing.colour == fields["colour"] for thing in named))


def _propose_both(objects: Objects, draw: Draw) -> list[Fields]:
    two = _two(objects, draw)
    if two is None:
        return []
    colour = next(thing.colour for thing in _once(objects) if thing.product == two["product"])
    return [{**two, "colour": colour}]


def _how_many(name: str) -> Callable[[Objects, Fields], str | None]:
    def answer(objects: Objects, fields: Fields) -> str | None:
        count = _count(objects, name, fields[name]) if name in fields else len(objects)
        return str(count) if count <= MOST_COUNTED else None

    return answer


def _propose_how_many(name: str) -> Callable[[Objects, Draw], list[Fields]]:
    def propose(objects: Objects, draw: Draw) -> list[Fields]:
        counts = Counter(getattr(thing, name) for thing in objects)
        known = draw.difficulty.product_names if name == "product" else _known(name, draw.difficulty)
        most = draw.one(value for value, count in counts.items() if count == max(counts.values()))
        none = draw.one(value for value in known if value not in counts)
        return [{name: value} for value in (most, none) if value]

    return propose


def _value_of(name: str, words: Mapping[str, str] | None) -> Callable[[Objects, Fields], str | None]:
    def answer(objects: Objects, fields: Fields) -> str | None:
        thing = _the(objects, fields["product"])
        value = None if thing is None else getattr(thing, name)
        return words[value] if words and value else value

    return answer


def _propose_unique(objects: Objects, draw: Draw) -> list[Fields]:
    product = draw.one(thing.product for thing in _once(objects))
    return [] if product is None else [{"product": product}]


def _beside(word: str) -> Callable[[Objects, Fields], str | None]:
    def answer(objects: Objects, fields: Fields) -> str | None:
        thing = _the(objects, fields["product"])
        others = [other for other in objects if thing and other is not thing and RELATIONS[word](other, thing) > 0]
        clear = len(others) == 1 and thing is not None and related(others[0], thing, word)
        return NOUNS[others[0].product] if clear else None

    return answer


def _which(objects: Objects, fields: Fields) -> str | None:
    found = [thing.product for thing in objects if thing.pattern == fields["pattern"]]
    return NOUNS[found[0]] if len(found) == 1 else None


def _propose_which(objects: Objects, draw: Draw) -> list[Fields]:
    counts = Counter(thing.pattern for thing in objects)
    pattern = draw.one(name for name, count in counts.items() if count == 1)
    return [] if pattern is None else [{"pattern": pattern}]


TEMPLATES = (
    Template("exists", "binary", "is there a {product}?", _exists, _propose_exists),
    Template("colour-is", "binary", "is the {product} {colour}?", _is("colour"), _propose_is("colour")),
    Template("pattern-is", "binary", "is the {product} {pattern}?", _is("pattern"), _propose_is("pattern")),
    Template("more", "binary", "are there more {products} than {others}?", _more, _propose_more),
    Template("left-of", "binary", "is the {product} left of the {other}?", _left, _propose_left),
    Template("both-colour", "binary", "are both the {product} and the {other} {colour}?", _both, _propose_both),
    Template("count", "number", "how many products are there?", _how_many("all"), lambda objects, draw: [{}]),
    Template(
        "count-product", "number", "how many {products} are there?", _how_many("product"), _propose_how_many("product")
    ),
    Template(
        "count-colour",
        "number",
        "how many {colour} products are there?",
        _how_many("colour"),
        _propose_how_many("colour"),
    ),
    Template(
        "count-pattern",
        "number",
        "how many products are {pattern}?",
        _how_many("pattern"),
        _propose_how_many("pattern"),
    ),
    Template("colour", "open", "what colour is the {product}?", _value_of("colour", COLOUR_NAMES), _propose_unique),
    Template(
        "pattern", "open", "what pattern has the {product}?", _value_of("pattern", PATTERN_NAMES), _propose_unique
    ),
    Template("material", "open", "what material is the {product}?", _value_of("material", None), _propose_unique),
    Template("left", "open", "what is left of the {product}?", _beside("left of"), _propose_unique),
    Template("right", "open", "what is right of the {product}?", _beside("right of"), _propose_unique),
    Template("above", "open", "what is above the {product}?", _beside("above"), _propose_unique),
    Template("which-pattern", "open", "which product is {pattern}?", _which, _propose_which),
)

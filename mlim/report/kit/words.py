"""Which words of two texts differ."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

CUT = "\u2026"
TOKEN = re.compile(r"[\s;:,.]+|[^\s;:,.]+")
WORD = re.compile(r"[^\s;:,.]")


@dataclass(frozen=True)
class Words:
    """A stretch of a text; `differs`: the other text does not have these words; `unread`: the model does not."""

    text: str
    differs: bool
    unread: bool = False


def plain(text: str) -> tuple[Words, ...]:
    """A text in which nothing is marked."""
    return (Words(text, False),)


def clip(text: str, characters: int) -> str:
    """The text, cut at `characters` with an ellipsis."""
    return text if len(text) <= characters else text[:characters].rstrip() + CUT


def clip_words(stretches: Iterable[Words], characters: int) -> tuple[Words, ...]:
    """The first stretches with `characters` together, and an ellipsis where something was left out."""
    shown: list[Words] = []
    left = characters
    for each in stretches:
        if len(each.text) > left:
            return (*shown, Words(each.text[:left].rstrip() + CUT, each.differs and left > 0))
        shown.append(each)
        left -= len(each.text)
    return tuple(shown)


def compare(first: str, second: str) -> tuple[tuple[Words, ...], tuple[Words, ...]]:
    """Both texts in stretches that joined give the text again; marked is what the other one does not have.

    Words are compared without regard to case and to where they stand; a word that one text has twice and the other once
    is marked the second time.
    """
    return _marked(first, second), _marked(second, first)


def _marked(text: str, other: str) -> tuple[Words, ...]:
    left = Counter(word.casefold() for word in TOKEN.findall(other))
    marks: list[tuple[bool, str]] = []
    for token in TOKEN.findall(text):
        word = token.casefold()
        missing = WORD.match(token) is not None and not left[word]
        left[word] -= 1
        marks.append((missing, token))
    return tuple(
        Words("".join(token for _, token in stretch), differs)
        for differs, stretch in groupby(marks, key=lambda mark: mark[0])
    )

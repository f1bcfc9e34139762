"""Answers as VQA's evaluation compares them (Antol et al., 2015), and what the votes of people for them are worth.

Its documented rules: lower case; number words are digits; no articles; no periods but decimal points; no commas inside
numbers; contractions have their apostrophe; other punctuation, but apostrophes and colons, is a space.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

Scored = tuple[tuple[str, float], ...]  # answers with scores in (0, 1]

FULL_SHARE: Final = 3  # an answer that one in so many people gave is right: of ten, four, and three give 0.9
HYPHEN: Final = "-"
ARTICLES: Final = frozenset({"a", "an", "the"})
NUMBER_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS: Final = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
COMMA_IN_NUMBER: Final = re.compile(r"(?<=\d),(?=\d)")
PERIOD: Final = re.compile(r"\.(?!\d)")  # one before a digit is a decimal point
SPACED: Final = str.maketrans(dict.fromkeys(';/[]"{}()=+\\_><@`,?!', " "))

EDGE_HYPHEN: Final = re.compile(r"(?<!\w)-|-(?!\w)")  # one that joins no words
CONTRACTED: Final = (  # what is left out, how it ends, after which words
    ("nt", "n't", "ai are ca could did does do had has have is might must need sha should was were wo would"),
    ("ve", "'ve", "could i might must should they we who would you"),
    ("re", "'re", "they what you"),
    ("ll", "'ll", "it that they what who you"),
    ("s", "'s", "he how let she somebody someone something that there what when where who"),
    ("m", "'m", "i"),
    ("all", "'all", "y"),
    ("clock", "'clock", "o"),
)
CONTRACTIONS: Final = {
    f"{word}{written}": f"{word}{full}" for written, full, words in CONTRACTED for word in words.split()
}


def normalised(answer: str) -> str:
    """The answer as it is compared: `A T-shirt.` is `t shirt`. One of articles or marks alone stays what it is."""
    return _tidied(answer.replace(HYPHEN, " ")) or _tidied(answer)


def _tidied(answer: str) -> str:
    """The same with the hyphens between words: `two-tone` stays one word."""
    lowered = " ".join(answer.lower().split())
    spaced = EDGE_HYPHEN.sub(" ", COMMA_IN_NUMBER.sub("", lowered)).translate(SPACED)
    words = [word for word in PERIOD.sub("", spaced).split() if word not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, DIGITS.get(word, word)) for word in words) or lowered


class AnswerSpellings:
    """One spelling for all answers that are compared as equal, so that they are one class.

    A single word is spelled as it is compared, several as the first that is met, with its hyphens.
    """

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def of(self, answer: str) -> str:
        """The spelling of an answer; empty for a blank one."""
        known = normalised(answer)
        return self._first.setdefault(known, _tidied(answer)) if " " in known else known


def vote(answers: Iterable[str], spellings: AnswerSpellings) -> Scored:
    """The answers that people gave with their scores, the most frequent first; blank ones are no answers.

    The score is 0.3, 0.6, 0.9 or 1 for 1, 2, 3 or more of ten people (VQA: the mean over those with one person left
    out), and for another number of people that of the same share.
    """
    given = [spelled for spelled in map(spellings.of, answers) if spelled]
    return tuple((answer, min(1.0, FULL_SHARE * count / len(given))) for answer, count in Counter(given).most_common())


def add_up(scores: Iterable[float]) -> float:
    """The score of one answer that has several spellings: their sum, at most 1."""
    return min(1.0, sum(scores))

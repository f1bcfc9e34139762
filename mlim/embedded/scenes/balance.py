"""Questions thinned out until their words tell little: yes as often as no, every count as often as another.

All of it holds within each split: what is learned from the words of the training questions is worth as little there.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from mlim.embedded.scenes.facts import Purpose, generator_of
from mlim.embedded.scenes.questions import TEMPLATES, Asked

RAREST = 0.05  # an answer rarer than this share of the commonest is left out: it would thin out all others
MOST_TO_LEAST = 2  # of open answers: the commonest at most this many times as often as the rarest
T = TypeVar("T")


def balanced(asked: Sequence[tuple[int, Asked]], seed: int, part: int) -> list[tuple[int, Asked]]:
    """The questions of one split (with the number of their picture) that are kept, in their order.

    Binary: as many yes as no for every template and the product that it names first. Number: equally many of each
    count. Open: no answer more than twice as often as the rarest.
    """
    kept: set[int] = set()
    for place, template in enumerate(TEMPLATES):
        mine = [number for number, (_, question) in enumerate(asked) if question.template is template]
        order = generator_of(seed, place, part, Purpose.BALANCE).permutation(len(mine))
        shuffled = [mine[number] for number in order]
        kept.update(_thinned(shuffled, [asked[number][1] for number in shuffled]))
    return [asked[number] for number in sorted(kept)]


def _thinned(numbers: Sequence[int], asked: Sequence[Asked]) -> list[int]:
    if not asked:
        return []
    answers = dict(zip(numbers, (question.answer for question in asked), strict=True))
    match asked[0].template.kind:
        case "binary":
            subjects = dict(zip(numbers, (_subject(question) for question in asked), strict=True))
            groups = _grouped(numbers, subjects.__getitem__)
            return [number for group in groups.values() for number in _level(group, answers.__getitem__, 1, 2)]
        case "number":
            return _level(numbers, answers.__getitem__, 1)
        case "open":
            return _level(numbers, answers.__getitem__, MOST_TO_LEAST)


def _subject(question: Asked) -> str:
    return question.fields.get("product", "")


def _level(numbers: Sequence[int], answer: Callable[[int], str], ratio: int, needed: int = 1) -> list[int]:
    """At most `ratio` times as many of an answer as of the rarest; none when there are fewer than `needed` answers."""
    groups = _grouped(numbers, answer)
    commonest = max(map(len, groups.values()))
    groups = {key: members for key, members in groups.items() if len(members) >= RAREST * commonest}
    if len(groups) < needed:
        return []
    most = ratio * min(map(len, groups.values()))
    return [number for members in groups.values() for number in members[:most]]


def _grouped(values: Sequence[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for value in values:
        groups[key(value)].append(value)
    return groups

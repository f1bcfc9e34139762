"""How far the words of a question go without its picture: what a model has to beat before it looks."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

ALL = "all"


class Posed(NamedTuple):
    """A question as the computation needs it: its `kind` and `template`, its words, its answers with their scores."""

    kind: str
    template: str
    text: str
    scores: Mapping[str, float]


class Prior(NamedTuple):
    """Over `questions`, the mean score of the most frequent answer, and of the best one for the same words."""

    questions: int
    majority: float
    words: float


def measure_priors(train: Iterable[Posed], judged: Sequence[Posed]) -> dict[str, Prior]:
    """Priors of all judged questions, of each kind (`kind/binary`) and of each template (`template/colour`).

    Both readers learn from `train` alone. `majority` always gives the answer with the highest total score there, of
    all questions or of the kind or template; `words` the one for the same words, where they are new the template's,
    else the one of all.
    """
    totals: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for posed in train:
        for key in (("text", posed.text), *_groups(posed)):
            totals[key].update(posed.scores)
    best = {key: _best(counts) for key, counts in totals.items()}
    grouped: dict[tuple[str, str], list[Posed]] = defaultdict(list)
    for posed in judged:
        for key in _groups(posed):
            grouped[key].append(posed)
    return {
        "/".join(filter(None, key)): Prior(
            len(members),
            _mean(members, lambda posed, key=key: best.get(key)),  # type: ignore[misc]
            _mean(members, lambda posed: next((best[k] for k in _words(posed) if k in best), None)),
        )
        for key, members in sorted(grouped.items())
    }


def _groups(posed: Posed) -> list[tuple[str, str]]:
    return [(ALL, ""), ("kind", posed.kind), ("template", posed.template)]


def _words(posed: Posed) -> list[tuple[str, str]]:
    return [("text", posed.text), ("template", posed.template), (ALL, "")]


def _best(counts: Counter[str]) -> str:
    """The answer with the highest total; of equal ones the first in the alphabet."""
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _mean(members: Sequence[Posed], guess: Callable[[Posed], str | None]) -> float:
    return sum(posed.scores.get(guess(posed) or "", 0.0) for posed in members) / len(members)

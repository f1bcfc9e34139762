"""The table of what people answered about pairs (`mlim review`): who, when, to which model's score.

Rows are added at the end and keep their order, so that the file reads well in version control. Of one reviewer's
answers to a pair the last one counts. Reviewers who disagree contradict each other, and so does a mismatch between two
items that a chain of matches connects (A = B, B = C, A != C): which of these answers is wrong is not known.
"""

import unicodedata
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from filelock import FileLock

from mlim.catalog.rejection import Rejection
from mlim.errors import InputError
from mlim.files import plain_cell, write_csv
from mlim.sources.lines import UTF8
from mlim.sources.readers import TableFile
from mlim.sources.records import Record

YES, NO, UNSURE = "1", "0", "unsure"
ANSWERS: Final = (YES, NO, UNSURE)
WORDS: Final = {YES: "match", NO: "differs", UNSURE: "unsure"}

CSV: Final = ".csv"
MOST_CHARACTERS: Final = 10_000  # of a cell
CONTROL: Final = "Cc"  # category of characters; line ends are among them
HALF: Final = "Cs"  # likewise: one half of a surrogate pair, which UTF-8 cannot hold

Pair = tuple[str, str]
Links = Mapping[str, Collection[str]]


class Answer(NamedTuple):
    """One answer as the table has it, every cell as text; `at` is ISO 8601 in UTC, `model` the SHA-256 of a model."""

    item_a: str
    item_b: str
    label: str
    by: str
    at: str
    model: str = ""
    score: str = ""

    @property
    def pair(self) -> Pair:
        """Its items, sorted."""
        return pair_of(self.item_a, self.item_b)


def cell_problem(answer: Answer) -> str | None:
    """What is wrong with a cell that a later `AnswerTable.read` would refuse or read otherwise; None for no such cell.

    It completes a sentence that begins with where the answer is.
    """
    for name, cell in answer._asdict().items():
        if len(cell) > MOST_CHARACTERS:
            return f"`{name}` has {len(cell):,} characters, more than the {MOST_CHARACTERS:,} of a cell"
        place = next((place for place, one in enumerate(cell) if unicodedata.category(one) in (CONTROL, HALF)), None)
        if place is not None:
            return f"`{name}` holds {cell[place]!a} at character {place + 1}, which a table of answers cannot hold"
    return None


class Contradiction(NamedTuple):
    """Pairs whose answers cannot all be right, and that in a sentence."""

    pairs: tuple[Pair, ...]
    sentence: str


@dataclass(frozen=True)
class Settled:
    """What the answers say together: a label (YES or NO) for each pair that is clear, and what is not."""

    labels: Mapping[Pair, str]
    unsure: frozenset[Pair]
    contradictions: tuple[Contradiction, ...]

    @property
    def contradicting(self) -> frozenset[Pair]:
        """The pairs of all contradictions."""
        return frozenset(pair for found in self.contradictions for pair in found.pairs)


def pair_of(one: str, other: str) -> Pair:
    """Two ids, sorted: a pair has no order."""
    return (one, other) if one <= other else (other, one)


class AnswerTable:
    """The table on disk (CSV). Several processes may add to it: each change is made alone and is whole or not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Answer]:
        """All answers in the order of their rows; `InputError` when the file is another table or a row is damaged."""
        if self.path.suffix.lower() != CSV:
            raise InputError(f"{self.path}: the name of a table of answers must end in {CSV}")
        if not self.path.exists():
            return []
        file = TableFile(self.path, self.path.name, UTF8)
        if file.columns() != list(Answer._fields):
            raise InputError(
                f"{self.path}: has the columns {', '.join(file.columns())} instead of {', '.join(Answer._fields)}; "
                "name another table with --labels"
            )
        return [self._answer(row, record) for row, record in enumerate(file.records(Answer._fields), start=1)]

    def add(self, answers: Sequence[Answer]) -> int:
        """Put answers at the end, without those that are there already; returns how many were added.

        `InputError` before anything is written when a cell of an answer could not be read again.
        """
        problem = next(filter(None, map(cell_problem, answers)), None)
        if problem:
            raise InputError(f"{self.path}: an answer cannot be added: {problem}")
        with self._alone():
            there = self.read()
            new = [one for one in dict.fromkeys(answers) if one not in set(there)]
            self._write([*there, *new])
        return len(new)

    def take_back(self, answer: Answer) -> bool:
        """Remove the last row that is this answer; whether there was one."""
        with self._alone():
            there = self.read()
            place = next((number for number in reversed(range(len(there))) if there[number] == answer), None)
            if place is None:
                return False
            self._write(there[:place] + there[place + 1 :])
        return True

    def _answer(self, row: int, record: Record) -> Answer:
        if isinstance(record, Rejection):
            raise InputError(f"{self.path}: row {row}: {record.detail}")
        answer = Answer(*map(plain_cell, record))
        if answer.label not in ANSWERS:
            raise InputError(f"{self.path}: row {row}: the label is `{answer.label}`, not one of {', '.join(ANSWERS)}")
        return answer

    def _write(self, answers: Iterable[Answer]) -> None:
        write_csv(self.path, (one._asdict() for one in answers), Answer._fields)

    def _alone(self) -> AbstractContextManager[object]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return FileLock(self.path.with_name(f".{self.path.name}.lock"))
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); name another table") from None


def settle(answers: Iterable[Answer]) -> Settled:
    """What the answers say together; the last one is that with the latest `at`, of equal ones that in the last row."""
    last = {(one.pair, one.by): one for one in sorted(answers, key=lambda one: one.at)}
    by_pair: dict[Pair, list[Answer]] = defaultdict(list)
    for (pair, _), answer in last.items():
        by_pair[pair].append(answer)
    clear, unsure, disputed = dict[Pair, str](), set[Pair](), list[Contradiction]()
    for pair, given in sorted(by_pair.items()):
        labels = {one.label for one in given} - {UNSURE}
        if len(labels) == 1:
            clear[pair] = labels.pop()
        elif labels:
            disputed.append(Contradiction((pair,), _disagreement(pair, given)))
        else:
            unsure.add(pair)
    broken = _broken_chains(clear)
    doubtful = {pair for found in broken for pair in found.pairs}
    labels_left = {pair: label for pair, label in clear.items() if pair not in doubtful}
    return Settled(labels_left, frozenset(unsure), (*disputed, *broken))


def _disagreement(pair: Pair, given: Iterable[Answer]) -> str:
    said = ", ".join(f"{one.by} says {WORDS[one.label]}" for one in sorted(given, key=lambda one: one.by))
    return f"{pair[0]} and {pair[1]}: {said}"


def _broken_chains(labels: Mapping[Pair, str]) -> list[Contradiction]:
    """For each mismatch between two items that matches connect: it and the shortest such chain."""
    links: dict[str, set[str]] = defaultdict(set)
    for (one, other), label in labels.items():
        if label == YES:
            links[one].add(other)
            links[other].add(one)
    found = []
    for pair in (pair for pair, label in labels.items() if label == NO):
        if chain := _chain(links, *pair):
            steps = tuple(pair_of(one, other) for one, other in pairwise(chain))
            found.append(Contradiction((pair, *steps), f"{' = '.join(chain)}, but {pair[0]} differs from {pair[1]}"))
    return found


def _chain(links: Links, start: str, end: str) -> list[str]:
    """The items on a shortest way from one to another, both with it; empty where there is none."""
    came_from, waiting = {start: start}, deque([start])
    while waiting and end not in came_from:
        here = waiting.popleft()
        for there in sorted(links.get(here, ())):
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    if end not in came_from:
        return []
    chain = [end]
    while chain[-1] != start:
        chain.append(came_from[chain[-1]])
    return chain[::-1]

"""Which pairs a person should look at: the most useful few of a table of scored pairs.

Three kinds take turns. `disputed`: two models decide differently, or the pair matches and lies in two groups.
`doubtful`: its calibrated probability is nearest to 0.5 (uncertainty sampling, Lewis and Gale 1994). `sampled`: drawn
from all others, so that mistakes of a model that is sure of itself are found. No item and no family has more than a few
pairs in a queue: many pairs of one product teach little.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from pydantic import PositiveInt

from mlim.config import Config
from mlim.errors import InputError
from mlim.pairs.answers import ANSWERS, Answer, AnswerTable, Contradiction, Pair, settle

DISPUTED, DOUBTFUL, SAMPLED, CONTRADICTING = "disputed", "doubtful", "sampled", "contradicting"
KINDS: Final = (DISPUTED, DOUBTFUL, SAMPLED)
SCORED_COLUMNS: Final = ("item_a", "item_b", "score", "probability")
MIDDLE: Final = 0.5
SPARE: Final = 20  # pairs of each kind that are kept for one that is wanted, as items and families limit them
ORDERS: Final = {
    DISPUTED: ["undisputed", "doubt", "item_a", "item_b"],
    DOUBTFUL: ["doubt", "item_a", "item_b"],
    SAMPLED: ["draw", "item_a", "item_b"],
}


class QueuedPair(NamedTuple):
    """A pair of a queue: why it is there (its kind, and what is disputed), and its score as text, empty for none."""

    pair: Pair
    kind: str
    dispute: str
    score: str


class QueueSettings(Config):
    """How long a queue is, and how many of its pairs may be of one item or of one family."""

    pairs: PositiveInt = 100
    per_item: PositiveInt = 2
    per_family: PositiveInt = 6


def shortlist(
    parts: Iterable[pd.DataFrame], answered: Collection[Pair], disputed: Collection[Pair], settings: QueueSettings
) -> pd.DataFrame:
    """Of scored pairs (item_a, item_b, score, probability), which come in `parts`, those that a queue may need.

    Each is there once, its ids sorted; pairs without a score and `answered` ones are left out. The columns
    `undisputed`, `doubt` (distance of the probability from 0.5) and `draw` (a hash of the ids) order them. What is kept
    does not depend on the order of the pairs.
    """
    most = SPARE * settings.pairs
    kept = _keyed(pd.DataFrame(columns=list(SCORED_COLUMNS)), answered, disputed)
    for part in parts:
        found = _keyed(part, answered, disputed)
        both = pd.concat([kept, found], ignore_index=True) if len(kept) else found
        both = both.sort_values(["item_a", "item_b", "doubt", "score"], kind="stable")
        both = both.drop_duplicates(["item_a", "item_b"])
        heads = [both.sort_values(order, kind="stable").head(most) for order in ORDERS.values()]
        kept = pd.concat(heads).drop_duplicates(["item_a", "item_b"])
    return kept.reset_index(drop=True)


def choose_queue(
    listed: pd.DataFrame, families: Mapping[str, str | None], disputed: Mapping[Pair, str], settings: QueueSettings
) -> list[QueuedPair]:
    """The pairs of a `shortlist` that a person is asked about, in order.

    `families` are those of the items, None or nothing where an item has none; `disputed` says why pairs are.
    """
    waiting = {kind: _in_order(listed, kind) for kind in KINDS}
    chosen, used = dict[Pair, str](), Counter[tuple[str, str]]()
    while waiting and len(chosen) < settings.pairs:
        for kind, pairs in list(waiting.items()):
            found = next((one for one in pairs if one not in chosen and _has_room(one, families, used, settings)), None)
            if found is None:
                del waiting[kind]
            elif len(chosen) < settings.pairs:
                chosen[found] = kind
                used.update(_owners(found, families))
    scores = dict(zip(zip(listed["item_a"], listed["item_b"], strict=True), listed["score"], strict=True))
    return [QueuedPair(pair, kind, disputed.get(pair, ""), f"{scores[pair]:.6f}") for pair, kind in chosen.items()]


def contradicting_queue(contradictions: Iterable[Contradiction]) -> list[QueuedPair]:
    """The pairs whose answers contradict each other, each once, with the contradiction."""
    found = {pair: one.sentence for one in contradictions for pair in one.pairs}
    return [QueuedPair(pair, CONTRADICTING, sentence, "") for pair, sentence in found.items()]


class ReviewSession:
    """One reviewer who answers the pairs of a queue, each answer stored at once."""

    def __init__(self, queue: Sequence[QueuedPair], table: AnswerTable, by: str, model: str) -> None:
        """`model` is the SHA-256 of what scored the pairs."""
        self.queue, self.table, self.by, self._model = queue, table, by, model
        self._given: list[tuple[int, Answer]] = []

    def answer(self, number: int, label: str) -> None:
        """Store an answer to the pair of this number, from 0; `InputError` when there is no such pair or answer."""
        if not 0 <= number < len(self.queue):
            raise InputError(f"there is no pair {number} in this queue of {len(self.queue)}; load the page again")
        if label not in ANSWERS:
            raise InputError(f"the answer must be one of {', '.join(ANSWERS)}; load the page again")
        asked = self.queue[number]
        given = Answer(*asked.pair, label, self.by, in_utc(datetime.now(UTC)), self._model, asked.score)
        self.table.add([given])
        self._given.append((number, given))

    def undo(self) -> int | None:
        """Take the last answer back; returns the number of its pair, None where there is none."""
        if not self._given:
            return None
        number, answer = self._given.pop()
        self.table.take_back(answer)
        return number

    @property
    def added(self) -> int:
        """How many answers of this session are in the table."""
        return len(self._given)

    def state(self) -> dict[str, Any]:
        """What the page shows: the answers of this session by number of pair, and all contradictions as sentences."""
        found = settle(self.table.read()).contradictions
        answers = {str(number): answer.label for number, answer in self._given}
        return {"answers": answers, "contradictions": [one.sentence for one in found]}


def in_utc(time: datetime) -> str:
    """A time as ISO 8601 in UTC: as texts, times are in order."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds")


def _keyed(part: pd.DataFrame, answered: Collection[Pair], disputed: Collection[Pair]) -> pd.DataFrame:
    frame = part.loc[part["probability"].notna(), list(SCORED_COLUMNS)].reset_index(drop=True)
    sides = np.sort(frame[["item_a", "item_b"]].to_numpy(dtype=object), axis=1)
    pairs = list(zip(sides[:, 0], sides[:, 1], strict=True))
    names = np.array([f"{one}\0{other}" for one, other in pairs], dtype=object)
    frame = frame.assign(
        item_a=sides[:, 0],
        item_b=sides[:, 1],
        undisputed=[pair not in disputed for pair in pairs],
        doubt=(frame["probability"].astype(float) - MIDDLE).abs(),
        draw=pd.util.hash_array(names, categorize=False),
    )
    return frame[np.array([pair not in answered and pair[0] != pair[1] for pair in pairs], dtype=bool)]


def _in_order(listed: pd.DataFrame, kind: str) -> Iterator[Pair]:
    """The pairs of one kind, the most useful first."""
    frame = listed[~listed["undisputed"].astype(bool)] if kind == DISPUTED else listed
    frame = frame.sort_values(ORDERS[kind], kind="stable")
    return iter(list(zip(frame["item_a"], frame["item_b"], strict=True)))


def _owners(pair: Pair, families: Mapping[str, str | None]) -> set[tuple[str, str]]:
    """The items and families that a pair counts for."""
    of_families = {families.get(item) for item in pair} - {None, ""}
    return {("item", item) for item in pair} | {("family", str(family)) for family in of_families}


def _has_room(
    pair: Pair, families: Mapping[str, str | None], used: Counter[tuple[str, str]], settings: QueueSettings
) -> bool:
    limits = {"item": settings.per_item, "family": settings.per_family}
    return all(used[owner] < limits[owner[0]] for owner in _owners(pair, families))

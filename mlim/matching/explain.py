"""Why a pair of items has its score: what each part of it contributes, where in the pictures, and what would change it.

The parts of a pair are the columns of its text and its picture; a part stands for both items. A part is taken away by
putting in its place that of reference pairs: other pairs of the catalog, one after the other, whose scores are
averaged (Lundberg and Lee, NeurIPS 2017). Without any part the mean score of the reference pairs is left, the baseline;
the contributions, Shapley values, add up to the score less the baseline. Columns are added to the picture one after the
other, never with the picture between them (Owen 1977), so that the contributions of the columns add up to that of the
text, and those of text and picture are the Shapley values of these two alone.

Nothing here knows a model: a `Scorer` gives scores to pairs of items as they are shown.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.catalog.item import join_text
from mlim.data.seeds import numpy_generator
from mlim.errors import InputError
from mlim.matching.item_parts import ItemParts
from mlim.matching.items import TEXT, Pixels
from mlim.recipe.base import Modality
from mlim.stacking.items import UNKNOWN, Columns

MOST_EXACT: Final = 6  # columns whose every order is looked at
SAMPLED_ORDERS: Final = 16  # of more columns, at least, and as many reversed
MOST_CHANGED: Final = 3  # parts that are changed together in search of another decision
MOST_COMBINED: Final = 20  # parts among which those that are changed together are searched
MOST_COLUMNS: Final = 100  # that are explained: work and memory grow with their square
TOP_SHARE: Final = 0.1  # of the regions: those that are outlined, and that the deletion test hides
CANDIDATES: Final = 32  # regions that are tried together with others, those that matter most by themselves

Floats = NDArray[np.float64]
Coalition = frozenset[int]  # numbers of the parts that are shown as they are
LEAST_GAIN: Final = 0.05  # of the score's move so far: a region that adds less is not worth an outline

Cell = tuple[int, int, int]  # item (0 or 1), row, column
Kind = Literal["text", "picture"]
How = Literal["same", "other"]


class Shown(NamedTuple):
    """An item as the scorer sees it: a text, a picture (size, size, 3), and its columns where they are known."""

    text: str
    picture: Pixels
    columns: Columns = UNKNOWN


Scorer = Callable[[Sequence[tuple[Shown, Shown]]], Floats]
"""Scores (n,) of pairs of items; higher means more likely a match."""


class Contribution(NamedTuple):
    """What one part adds to the score; `name` is a column or `picture`, `first` and `second` what the items say."""

    name: str
    kind: Kind
    first: str
    second: str
    value: float


class Region(NamedTuple):
    """A cell of a picture's grid: its row and column from 0.

    `effect` is what hiding it takes from the score when the regions before it are hidden already.
    """

    item: int  # 0 or 1
    row: int
    column: int
    effect: float


class Change(NamedTuple):
    """The smallest change of parts that leads to another decision, and the score then.

    `how`: `same`, both items had what one of them has (mean of both ways); `other`, they had those of other pairs.
    """

    parts: tuple[str, ...]
    how: How
    score: float


@dataclass(frozen=True)
class Explanation:
    """Why a pair has its score.

    `baseline` plus the `contributions` is the `score`. `effects` (2, grid, grid) is what hiding each region of the two
    pictures, by itself and with the picture's mean colour, takes from the score; None where no picture is read.
    `regions` are those on which the score depends most, hidden together (`strongest_regions`). `change` is None where
    none of up to three parts changes the decision. `exact`: contributions are those of all orders, not of a sample.
    `references` is how many pairs stood in for a part; 0: it was left out, or a picture made of one colour.
    """

    score: float
    threshold: float
    baseline: float
    contributions: tuple[Contribution, ...]
    effects: Floats | None
    regions: tuple[Region, ...]
    change: Change | None
    exact: bool
    references: int

    @property
    def match(self) -> bool:
        """Whether the pair matches."""
        return self.score >= self.threshold

    def of(self, kind: Kind) -> float:
        """What all texts, or the pictures, contribute together."""
        return float(sum(one.value for one in self.contributions if one.kind == kind))

    def reads(self, kind: Kind) -> bool:
        """Whether texts, or pictures, are among the parts."""
        return any(one.kind == kind for one in self.contributions)

    @property
    def without_regions(self) -> float:
        """The score when the `regions` are hidden."""
        return self.score - sum(one.effect for one in self.regions)

    @property
    def summary(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "score": self.score,
            "threshold": self.threshold,
            "match": self.match,
            "baseline": self.baseline,
            "text": self.of("text") if self.reads("text") else None,
            "picture": self.of("picture") if self.reads("picture") else None,
            "contributions": [one._asdict() for one in self.contributions],
            "exact": self.exact,
            "regions": [one._asdict() for one in self.regions],
            "score_without_regions": self.without_regions if self.regions else None,
            "effects": None if self.effects is None else self.effects.tolist(),
            "change": None if self.change is None else self.change._asdict(),
        }


@dataclass(frozen=True)
class Question:
    """A pair of items and how it is read: the columns of their texts in order, and a grid on their pictures."""

    first: ItemParts
    second: ItemParts
    columns: tuple[str, ...]
    picture: bool
    grid: int

    @classmethod
    def about(cls, first: ItemParts, second: ItemParts, modality: Modality, grid: int) -> "Question":
        """The question why these two items have their score; a column that neither has is no part.

        Where the text of one item is known as a whole only, the text is one part. `InputError` for too many columns.
        """
        one, other = sorted((first, second), key=_sortable)
        named = [*one.stretches, *other.stretches] if one.is_whole == other.is_whole else [TEXT]
        columns = [name for name in dict.fromkeys(named) if first.stretch(name) or second.stretch(name)]
        if len(columns) > MOST_COLUMNS:
            raise InputError(f"the two items have {len(columns)} fields; at most {MOST_COLUMNS} can be explained")
        return cls(first, second, () if modality == "image" else tuple(columns), modality != "text", grid)

    @property
    def parts(self) -> int:
        """How many there are; the picture comes after the columns."""
        return len(self.columns) + self.picture

    @property
    def everything(self) -> Coalition:
        """All parts."""
        return frozenset(range(self.parts))

    @property
    def shown(self) -> tuple[Shown, Shown]:
        """The pair as it is."""
        return self.mixed(self.first, self.second, self.everything)

    def name(self, part: int) -> str:
        """A column, or `picture`."""
        return self.columns[part] if part < len(self.columns) else "picture"

    def mixed(self, first: ItemParts, second: ItemParts, own: Coalition) -> tuple[Shown, Shown]:
        """The pair with its own parts in `own`, and those of two other items for the rest."""
        return self.mix(self.first, first, own), self.mix(self.second, second, own)

    def mix(self, item: ItemParts, other: ItemParts, own: Coalition) -> Shown:
        """One item, likewise."""
        chosen = [item if part in own else other for part in range(self.parts)]
        said = {name: one.stretch(name) for name, one in zip(self.columns, chosen, strict=False)}
        in_order = dict.fromkeys(name for name in (*item.stretches, *said) if name in said)
        text = join_text([(None, said[name]) for name in in_order])
        return Shown(text, (chosen[-1] if self.picture else item).picture, self._columns(item, chosen))

    def _columns(self, item: ItemParts, chosen: Sequence[ItemParts]) -> Columns:
        """The columns that say what the text does; a part that was taken away has no value in its column."""
        told = dict(zip(self.columns, chosen, strict=False))
        if self.first.is_whole or self.second.is_whole:
            return told.get(TEXT, item).columns
        return {name: told[name].columns.get(name, "") if name in told else "" for name in item.columns}


def explain(
    scorer: Scorer,
    question: Question,
    threshold: float,
    references: Sequence[tuple[ItemParts, ItemParts]] = (),
    *,
    regions: bool = True,
    seed: int = 0,
) -> Explanation:
    """Why the pair of `question` has the score that `scorer` gives it; a pair matches from `threshold` on.

    `references` are other pairs whose parts stand in for those of the pair; without any, texts are left out, and a
    picture becomes one of its mean colour. The explanation does not depend on the order of the two items if the score
    does not. Without `regions` the pictures are not searched. Deterministic in `seed`.
    """
    game = _Game(scorer, question, _turned(question, references))
    orders, exact = _orders(question, game.references, seed)
    values = game.contributions(orders)
    score = game.value(question.everything)
    searched = regions and question.picture
    effects = region_effects(scorer, question.shown, question.grid)[0] if searched else None
    strongest = [] if effects is None else strongest_regions(scorer, question.shown, effects, score, TOP_SHARE)
    return Explanation(
        score=score,
        threshold=threshold,
        baseline=game.value(frozenset()),
        contributions=tuple(_contribution(question, part, value) for part, value in enumerate(values)),
        effects=effects,
        regions=tuple(strongest),
        change=_change(game, question, values, score >= threshold, threshold),
        exact=exact,
        references=len(references),
    )


class _Order(NamedTuple):
    """An order in which parts are shown, and the numbers of the references that stand in for the rest meanwhile."""

    parts: tuple[int, ...]
    references: tuple[int, ...]

    @property
    def prefixes(self) -> list[Coalition]:
        """What is shown before the first part, after it, and so on."""
        return [frozenset(self.parts[:length]) for length in range(len(self.parts) + 1)]


class _Game:
    """The score of the pair with the parts of a coalition as they are, and those of references for the rest."""

    def __init__(self, scorer: Scorer, question: Question, references: Sequence[tuple[ItemParts, ItemParts]]) -> None:
        self.scorer, self._question, self._references = scorer, question, references
        self._scores: dict[tuple[Coalition, int], float] = {}

    @property
    def references(self) -> tuple[int, ...]:
        """Their numbers."""
        return tuple(range(len(self._references)))

    def value(self, coalition: Coalition) -> float:
        """Of one coalition, mean over the references."""
        return float(self.values([coalition])[0])

    def values(self, coalitions: Sequence[Coalition]) -> Floats:
        """Of these coalitions (n,), likewise."""
        self._score((coalition, number) for coalition in coalitions for number in self.references)
        return np.array([self._mean(coalition, self.references) for coalition in coalitions])

    def contributions(self, orders: Sequence[_Order]) -> Floats:
        """The mean over the orders of what each part (n,) adds to those before it."""
        stages = [[(prefix, order.references) for prefix in order.prefixes] for order in orders]
        asked = dict.fromkeys(stage for of_order in stages for stage in of_order)
        self._score((coalition, number) for coalition, references in asked for number in references)
        means = {stage: self._mean(*stage) for stage in asked}
        added = np.zeros((len(orders), self._question.parts))
        for row, (order, of_order) in enumerate(zip(orders, stages, strict=True)):
            added[row, list(order.parts)] = np.diff([means[stage] for stage in of_order])
        return np.asarray(added.mean(axis=0))

    def _mean(self, coalition: Coalition, references: Sequence[int]) -> float:
        return float(np.mean([self._scores[self._key(coalition, number)] for number in references]))

    def _score(self, wanted: Iterable[tuple[Coalition, int]]) -> None:
        """Ask for the scores that are not known yet."""
        keys = dict.fromkeys(self._key(*one) for one in wanted)
        new = [key for key in keys if key not in self._scores]
        pairs = [self._question.mixed(*self._references[number], coalition) for coalition, number in new]
        self._scores |= dict(zip(new, map(float, self.scorer(pairs)), strict=True))

    def _key(self, coalition: Coalition, number: int) -> tuple[Coalition, int]:
        """The same for all references where nothing is taken from them."""
        return coalition, 0 if coalition == self._question.everything else number


def _turned(
    question: Question, references: Sequence[tuple[ItemParts, ItemParts]]
) -> Sequence[tuple[ItemParts, ItemParts]]:
    """The references with their first item for the item that sorts first, whichever was named first."""
    if not references:
        return [(_empty(question.first), _empty(question.second))]
    ordered = _sortable(question.first) <= _sortable(question.second)
    return [pair if ordered else pair[::-1] for pair in references]


def _sortable(item: ItemParts) -> tuple[str, bytes]:
    return item.text, item.picture.tobytes()


def _empty(item: ItemParts) -> ItemParts:
    """No text, and a picture of one colour."""
    return ItemParts({}, {}, np.broadcast_to(mean_colour(item.picture), item.picture.shape))


def _orders(question: Question, references: Sequence[int], seed: int) -> tuple[list[_Order], bool]:
    """Orders of the parts, the picture before or after all columns; and whether they are all there are.

    Of a sample, each order is beside one reference (Strumbelj and Kononenko, KAIS 2014), all references equally often,
    and comes with its reverse (antithetic: Mitchell et al., JMLR 2022).
    """
    columns = len(question.columns)
    if columns <= MOST_EXACT:
        every = [_Order(parts, tuple(references)) for parts in permutations(range(columns))]
        return _beside_picture(every, question), True
    generator, rounds = numpy_generator("explanation", seed), -(-SAMPLED_ORDERS // len(references))
    sample = []
    for reference in (*references,) * rounds:
        drawn = tuple(map(int, generator.permutation(columns)))
        sample += [_Order(drawn, (reference,)), _Order(drawn[::-1], (reference,))]
    return _beside_picture(sample, question), False


def _beside_picture(orders: list[_Order], question: Question) -> list[_Order]:
    """Each order of the columns twice, with the picture before and after them, if it is read."""
    if not question.picture:
        return orders
    last = len(question.columns)
    both = (((*order.parts, last), (last, *order.parts)) for order in orders)
    return [order._replace(parts=parts) for order, pair in zip(orders, both, strict=True) for parts in pair]


def _contribution(question: Question, part: int, value: float) -> Contribution:
    name = question.name(part)
    if part < len(question.columns):
        return Contribution(name, "text", question.first.value(name), question.second.value(name), float(value))
    return Contribution(name, "picture", "", "", float(value))


def _change(game: _Game, question: Question, values: Floats, match: bool, threshold: float) -> Change | None:
    """The smallest set of parts that changes the decision; of several, the one that changes the score most.

    `values` (n,) are the contributions of the parts: of many parts the largest ones alone are combined.
    """
    how: How = "other" if match else "same"
    for sets in _by_size(values):
        scores = _with_others(game, question, sets) if match else _with_same(game, question, sets)
        best = int(np.argmin(scores) if match else np.argmax(scores))
        if (scores[best] >= threshold) != match:
            return Change(tuple(question.name(part) for part in sorted(sets[best])), how, float(scores[best]))
    return None


def _by_size(values: Floats) -> Iterator[list[Coalition]]:
    for size in range(1, min(MOST_CHANGED, len(values)) + 1):
        largest = np.argsort(-np.abs(values), kind="stable")[: MOST_COMBINED if size > 1 else len(values)]
        yield [frozenset(chosen) for chosen in combinations(sorted(map(int, largest)), size)]


def _with_others(game: _Game, question: Question, sets: Sequence[Coalition]) -> Floats:
    """Scores with those parts of the reference pairs."""
    return game.values([question.everything - chosen for chosen in sets])


def _with_same(game: _Game, question: Question, sets: Sequence[Coalition]) -> Floats:
    """Scores with those parts of one item in both, mean over the two items."""
    first, second, everything = question.first, question.second, question.everything
    shown = []
    for chosen in sets:
        kept = everything - chosen
        shown.append((question.mix(first, first, everything), question.mix(second, first, kept)))
        shown.append((question.mix(first, second, kept), question.mix(second, second, everything)))
    return np.asarray(game.scorer(shown).reshape(-1, 2).mean(axis=1))


def region_effects(scorer: Scorer, pair: tuple[Shown, Shown], grid: int) -> tuple[Floats, float]:
    """What hiding each region of the pictures takes from the score (2, grid, grid), and the score.

    Occlusion (Zeiler and Fergus, ECCV 2014) with regions that do not overlap.
    """
    score, *others = scorer([pair, *(without(pair, [cell], grid) for cell in np.ndindex(2, grid, grid))])
    return float(score) - np.array(others).reshape(2, grid, grid), float(score)


def strongest_regions(
    scorer: Scorer, pair: tuple[Shown, Shown], effects: Floats, score: float, share: float
) -> list[Region]:
    """The share of the regions, at most, that moves the score furthest when hidden together, in the order found.

    Each next one moves the score furthest when it is hidden besides those before it; where none moves it noticeably
    further, the search ends. Regions that matter only together, such as two halves of one pattern, are found so; ranks
    of single effects or of attention move scores less (`benchmarks/explanations.py`). Of a fine grid those regions are
    tried that move the score most by themselves.
    """
    grid, number = effects.shape[-1], max(1, round(share * effects.size))
    left = strongest_cells(np.abs(effects), max(CANDIDATES, number))
    found: list[Region] = []
    hidden: list[Cell] = []
    before = score
    while len(found) < number and left:
        scores = scorer([without(pair, [*hidden, cell], grid) for cell in left])
        best = int(np.argmax(np.abs(scores - score)))
        if abs(scores[best] - score) <= (1 + LEAST_GAIN) * abs(before - score):
            break
        hidden.append(left.pop(best))
        found.append(Region(*hidden[-1], effect=before - float(scores[best])))
        before = float(scores[best])
    return found


def strongest_cells(values: Floats, number: int) -> list[Cell]:
    """The cells with the largest values (2, grid, grid), the largest first."""
    order = np.argsort(-values, axis=None, kind="stable")[:number]
    places = zip(*np.unravel_index(order, values.shape), strict=True)
    return [(int(item), int(row), int(column)) for item, row, column in places]


def without(pair: tuple[Shown, Shown], cells: Sequence[Cell], grid: int) -> tuple[Shown, Shown]:
    """The pair with these cells of a grid on its pictures hidden."""
    first, second = (
        _without(shown, [cell[1:] for cell in cells if cell[0] == at], grid) for at, shown in enumerate(pair)
    )
    return first, second


def _without(shown: Shown, cells: Sequence[tuple[int, int]], grid: int) -> Shown:
    return shown._replace(picture=hide(shown.picture, cells, grid)) if cells else shown


def hide(picture: Pixels, cells: Iterable[tuple[int, ...]], grid: int) -> Pixels:
    """A picture with its mean colour in the cells (row, column) of a grid."""
    hidden = picture.copy()
    edges = np.linspace(0, len(picture), grid + 1).round().astype(int)
    for row, column in cells:
        hidden[edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = mean_colour(picture)
    return hidden


def mean_colour(picture: Pixels) -> Pixels:
    """Of all pixels, (3,)."""
    return np.asarray(picture.reshape(-1, picture.shape[-1]).mean(axis=0).round(), dtype=np.uint8)

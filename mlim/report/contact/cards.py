"""Items, pairs and quarantined rows as the template draws them: pictures as data URIs, texts cut and marked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlim.pictures.decoding import Picture
from mlim.report.contact.gather import ShownFamily
from mlim.report.contact.items import ShownItem
from mlim.report.contact.pairs import Kind, ShownPair, ShownTie
from mlim.report.contact.quarantine import QuarantinedRow, Reason
from mlim.report.contact.reading import Reader
from mlim.report.contact.settings import ContactSettings
from mlim.report.contact.source import SourceSample
from mlim.report.kit import formats
from mlim.report.kit.blocks import Card, Fact, PairCard
from mlim.report.kit.images import Thumbnails
from mlim.report.kit.words import Words, clip, clip_words, compare, plain

MOST_READ = 1200  # characters of a text that is read
UNREAD_SHOWN = 60  # of what is not


@dataclass(frozen=True)
class KindCards:
    """A kind of variation and examples of it."""

    name: str
    match: bool
    total: str
    pairs: tuple[PairCard, ...]


@dataclass(frozen=True)
class FamilyCards:
    """A family: its name, how many items it has, why it is shown, and its members."""

    name: str
    title: str
    cards: tuple[Card, ...]
    left: int


@dataclass(frozen=True)
class ReasonCards:
    """A reason for quarantine and rows that have it."""

    reason: str
    stage: str
    count: str
    cards: tuple[Card, ...]


class CardMaker:
    """Makes cards of what was gathered, all within one budget of picture bytes."""

    def __init__(self, settings: ContactSettings, reader: Reader | None = None) -> None:
        """`reader` tells how far the model reads; without one texts are cut where they are too long for the page."""
        self._characters, self.reader = settings.characters, reader
        self.thumbnails = Thumbnails(settings.thumbnail_side, settings.thumbnail_quality, settings.max_megabytes)

    def items(self, items: Iterable[ShownItem]) -> tuple[Card, ...]:
        """Sampled items, with their category."""
        return tuple(self._item(item, self._text(item.text), item.category or "") for item in items)

    def families(self, families: Iterable[ShownFamily]) -> tuple[FamilyCards, ...]:
        """Families with their members; what differs from the first member is marked."""
        return tuple(self._family(family) for family in families)

    def kinds(self, kinds: Iterable[Kind]) -> tuple[KindCards, ...]:
        """Kinds of pairs that have examples."""
        return tuple(
            KindCards(kind.name, kind.match, formats.count(kind.total), tuple(map(self._pair, kind.examples)))
            for kind in kinds
            if kind.examples
        )

    def ties(self, ties: Iterable[ShownTie]) -> tuple[Card, ...]:
        """An item for everything that ties too many items, with what helps."""
        return tuple(self._item(tie.item, self._plain(tie.sentence)) for tie in ties)

    def reasons(self, reasons: Iterable[Reason]) -> tuple[ReasonCards, ...]:
        """Reasons for quarantine that have examples."""
        return tuple(
            ReasonCards(each.reason, each.stage, _rows(each.count), tuple(map(self._quarantined, each.examples)))
            for each in reasons
            if each.examples
        )

    def samples(self, samples: Sequence[SourceSample]) -> tuple[Card, ...]:
        """Sampled rows of a source, with why a row or its picture cannot be used."""
        return tuple(map(self._sample, samples))

    def _item(self, item: ShownItem, words: tuple[Words, ...], note: str = "", beside: ShownItem | None = None) -> Card:
        uri = self.thumbnails.uri(item.image, item.width, item.height)
        return Card(uri, item.id, words, self._facts(item, beside), note)

    def _family(self, family: ShownFamily) -> FamilyCards:
        first = family.members[0]
        texts = [self._compare(first, member)[1] for member in family.members[1:]]
        cards = [self._item(first, self._text(first.text))]
        cards += [
            self._item(member, words, beside=first) for member, words in zip(family.members[1:], texts, strict=True)
        ]
        choice = family.choice
        title = f"{formats.count(choice.size)} items, {choice.why}"
        return FamilyCards(choice.name, title, tuple(cards), choice.size - len(cards))

    def _pair(self, pair: ShownPair) -> PairCard:
        left, right = self._compare(pair.first, pair.second)
        first = self._item(pair.first, left, beside=pair.second)
        return PairCard(first, self._item(pair.second, right, beside=pair.first), pair.split)

    def _compare(self, first: ShownItem, second: ShownItem) -> tuple[tuple[Words, ...], tuple[Words, ...]]:
        """What the model reads of both, compared whole, then cut for the page: that cut marks no word."""
        (left, left_rest), (right, right_rest) = self._read(first.text), self._read(second.text)
        words = zip(compare(left, right), (left_rest, right_rest), strict=True)
        one, other = ((*clip_words(text, self._most), *self._unread(rest)) for text, rest in words)
        return one, other

    def _quarantined(self, row: QuarantinedRow) -> Card:
        uri, name = self.thumbnails.uri(row.thumbnail), clip(row.id, self._characters)
        return Card(uri, name, self._plain(row.detail), note=f"{row.source}, row {formats.count(row.row)}")

    def _sample(self, sample: SourceSample) -> Card:
        row, picture = sample.row, sample.picture
        uri, problem = None, row.rejection
        if isinstance(picture, Picture):
            uri = self.thumbnails.uri(picture.jpeg, picture.width, picture.height)
        else:
            problem = problem or picture
        reason = "" if problem is None else clip(f"{problem.reason}: {problem.detail}", self._characters)
        name, where = clip(row.id, self._characters), f"{row.source}, row {formats.count(row.row)}"
        return Card(uri, name, self._text(row.text), note=where, problem=reason)

    def _facts(self, item: ShownItem, beside: ShownItem | None) -> tuple[Fact, ...]:
        other = item.facts if beside is None else beside.facts
        return tuple(
            Fact(
                name=name.replace("_", " "),
                value=clip(value, self._characters) or formats.MISSING,
                differs=other.get(name) != value,
            )
            for name, value in item.facts.items()
        )

    def _plain(self, text: str) -> tuple[Words, ...]:
        return plain(clip(text, self._characters))

    def _text(self, text: str) -> tuple[Words, ...]:
        """An item's text; what the model does not read is struck."""
        read, rest = self._read(text)
        return (*plain(clip(read, self._most)), *self._unread(rest))

    def _read(self, text: str) -> tuple[str, str]:
        return (text, "") if self.reader is None else self.reader.read(text)

    @property
    def _most(self) -> int:
        """Characters of what is read: all that a model of usual size reads, where it is known what that is."""
        return self._characters if self.reader is None else MOST_READ

    def _unread(self, rest: str) -> tuple[Words, ...]:
        return (Words(clip(rest, UNREAD_SHOWN), False, unread=True),) if rest.strip() else ()


def _rows(count: int) -> str:
    return f"{formats.count(count)} {'row' if count == 1 else 'rows'}"

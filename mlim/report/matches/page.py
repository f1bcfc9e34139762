"""The page of matches as one HTML file that loads nothing and escapes every text of the catalog.

Its one script filters what is shown by id; the page is whole without it, and its hash is the only one that is allowed.
"""

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from mlim.files import atomic_file
from mlim.matching.explain import Explanation
from mlim.report.contact.items import ShownItem
from mlim.report.explanation import sentences
from mlim.report.kit import formats
from mlim.report.kit.images import Thumbnails
from mlim.report.kit.page import render_page
from mlim.report.kit.words import Words, clip, clip_words, compare, plain
from mlim.report.matches.gather import Matches, MatchesSettings, ShownGroup, ShownPair

PACKAGE: Final = "mlim.report.matches"
TEMPLATE, STYLE, SCRIPT = "matches.html", "matches.css", "matches.js"
OPEN_GROUPS: Final = 20  # the others unfold: together they are thirty screens of a telephone
MATCH, NO_MATCH = "match", "mismatch"

Reasons = Mapping[tuple[str, str], Explanation]


class Tile(NamedTuple):
    """A number with its name."""

    name: str
    value: str
    note: str = ""


class Card(NamedTuple):
    """One item as the toolkit draws it."""

    uri: str | None
    name: str
    words: tuple[Words, ...]
    facts: tuple[()] = ()
    note: str = ""
    problem: str = ""


class GroupCards(NamedTuple):
    """A group: its id, what is said of it, its members, and how many more there are."""

    name: str
    title: str
    cards: tuple[Card, ...]
    left: int
    ids: str


class Why(NamedTuple):
    """Why a pair has its score: parts with what they contribute, what would change it, the command that tells more."""

    parts: tuple[tuple[str, str], ...]
    change: str
    command: str


class PairCards(NamedTuple):
    """Two items side by side, and why they have their score where that was asked."""

    first: Card
    second: Card
    truth: str
    label: str
    head: str
    ids: str
    why: Why | None


def write_page(matches: Matches, reasons: Reasons, out: Path, settings: MatchesSettings) -> int:
    """Write the page; returns how many images were left out to keep it small. `reasons` are for some of the pairs."""
    thumbnails = Thumbnails(settings.side, settings.quality, settings.max_megabytes)
    page = render(matches, reasons, thumbnails, settings)
    with atomic_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return thumbnails.left_out


def render(matches: Matches, reasons: Reasons, thumbnails: Thumbnails, settings: MatchesSettings) -> str:
    """The page; equal matches give equal text."""
    script = (resources.files(PACKAGE) / SCRIPT).read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    where = ("--model", matches.summary["model"], "--work", matches.summary["work"])
    cards = _Cards(thumbnails, settings, where)
    groups = tuple(map(cards.group, matches.groups))
    pairs = tuple(cards.pair(pair, reasons.get((pair.first.id, pair.second.id))) for pair in matches.pairs)
    values = {
        "summary": matches.summary,
        "headline": headline(matches.summary),
        "tiles": tiles(matches.summary),
        "groups": groups,
        "open_groups": OPEN_GROUPS,
        "pairs": pairs,
        "events": matches.events,
        "rejected": sorted(matches.summary["rejected"].items(), key=lambda entry: (-entry[1], entry[0])),
        "left_out": thumbnails.left_out,
        "script": Markup(script),  # noqa: S704 (a file of ours)
        "digest": digest,
    }
    return render_page(PACKAGE, TEMPLATE, values, STYLE)


def headline(summary: dict[str, Any]) -> str:
    """What came out, in a sentence."""
    groups, items = summary["groups"], summary["grouped_items"]
    if not groups:
        return f"No matches among {formats.count(summary['items'])} items"
    return (
        f"{formats.count(groups)} {'group' if groups == 1 else 'groups'} of matching items, "
        f"{formats.count(items)} of {formats.count(summary['items'])} items"
    )


def tiles(summary: dict[str, Any]) -> tuple[Tile, ...]:
    """The numbers above the page."""
    of_all = f"{summary['share_of_all_pairs']:.2%} of all pairs"
    return (
        Tile("items", formats.count(summary["items"]), "accepted"),
        Tile("rows rejected", formats.count(sum(summary["rejected"].values())), "rejected.csv"),
        Tile("candidates", formats.count(summary["candidates"]), of_all),
        Tile("matching pairs", formats.count(summary["matches"]), f"score from {summary['threshold']:.3f} on"),
        Tile("groups", formats.count(summary["groups"]), f"largest {formats.count(summary['largest_group'])}"),
        Tile("conflicts", formats.count(sum(summary["conflicts"].values())), "matching pairs in two groups"),
    )


def why(pair: ShownPair, found: Explanation, where: Sequence[str]) -> Why:
    """Why a pair has its score, as the page tells it, and the command for more; `where`: its options."""
    parts = [("baseline", formats.score(found.baseline))]
    parts += [(one.name, formats.signed(one.value)) for one in sentences.in_order(found)]
    command = shlex.join(["mlim", "explain", *where, "--", pair.first.id, pair.second.id])
    return Why((*parts, ("score", formats.score(found.score))), sentences.change(found), command)


class _Cards:
    def __init__(self, thumbnails: Thumbnails, settings: MatchesSettings, where: Sequence[str]) -> None:
        self._thumbnails, self._characters, self._where = thumbnails, settings.characters, where

    def group(self, group: ShownGroup) -> GroupCards:
        """A group; what differs from its representative is marked."""
        first, *rest = group.members
        cards = [self._card(first, plain(clip(first.text, self._characters)), "representative")]
        cards += [self._card(item, self._compared(first, item)[1]) for item in rest]
        lowest = "" if group.lowest is None else f", lowest score of a pair {group.lowest:.3f}"
        ids = " ".join(item.id for item in group.members)
        title = f"{formats.count(group.size)} items{lowest}"
        return GroupCards(group.name, title, tuple(cards), group.size - len(cards), ids)

    def pair(self, pair: ShownPair, found: Explanation | None) -> PairCards:
        """A pair; words that the other item does not have are marked."""
        left, right = self._compared(pair.first, pair.second)
        head = f"probability {pair.probability:.2f} · score {pair.score:.3f}"
        truth, label = (MATCH, "match") if pair.match else (NO_MATCH, "no match")
        by = f"found by {', '.join(pair.found_by)}"
        first, second = self._card(pair.first, left), self._card(pair.second, right)
        ids = f"{pair.first.id} {pair.second.id}"
        told = None if found is None else why(pair, found, self._where)
        return PairCards(first, second, truth, label, f"{head} · {by}", ids, told)

    def _compared(self, first: ShownItem, second: ShownItem) -> tuple[tuple[Words, ...], tuple[Words, ...]]:
        left, right = compare(first.text, second.text)
        return clip_words(left, self._characters), clip_words(right, self._characters)

    def _card(self, item: ShownItem, words: tuple[Words, ...], note: str = "") -> Card:
        return Card(self._thumbnails.uri(item.image, item.width, item.height), item.id, words, note=note)

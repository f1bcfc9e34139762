"""The page of a review as one HTML file that loads nothing and escapes every text of the catalog.

A server (mlim/steps/review_server.py) stores its answers, or, where it is a file, it keeps them and downloads them. It
shows neither score nor decision of the model, which would lead the person who answers. No script but its own, by hash,
is allowed to run; without script, all pairs are shown one below the other.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Final, NamedTuple

from markupsafe import Markup

from mlim.config import Config
from mlim.errors import InputError
from mlim.matching.review import CONTRADICTING, DISPUTED, DOUBTFUL, SAMPLED, QueuedPair
from mlim.pairs.answers import NO, UNSURE, YES
from mlim.report.contact.items import ShownItem
from mlim.report.kit.images import Thumbnails
from mlim.report.kit.page import render_page
from mlim.report.kit.words import Words, clip_words, compare

PACKAGE: Final = "mlim.report.review"
TEMPLATE, STYLE, SCRIPT = "review.html", "review.css", "review.js"
SIGN: Final = '<meta name="generator" content="mlim">'
DOWNLOAD_VERSION: Final = 1
NONE: Final = "nothing"
KIND_TITLES: Final = {
    DISPUTED: "disputed",
    DOUBTFUL: "in doubt",
    SAMPLED: "drawn at random",
    CONTRADICTING: "contradicting answers",
}


class ReviewPageSettings(Config):
    """How much of an item is on the page, and how large its images are."""

    characters: int = 600
    side: int = 320
    quality: int = 80
    max_megabytes: float = 32.0


class Key(NamedTuple):
    """What a key does; `label` is the answer that it gives, empty for the others."""

    key: str
    action: str
    label: str = ""


ANSWER_KEYS: Final = (Key("m", "match", YES), Key("d", "differs", NO), Key("u", "unsure", UNSURE))
OTHER_KEYS: Final = (Key("z", "undo"), Key("n", "next"))
SAVE_KEY: Final = Key("s", "save")


class Card(NamedTuple):
    """One item as the toolkit draws it."""

    uri: str | None
    name: str
    words: tuple[Words, ...]
    facts: tuple[()] = ()
    note: str = ""
    problem: str = ""


class PairCards(NamedTuple):
    """A pair as the page shows it; `differences` says in words what marks and colours say."""

    first: Card
    second: Card
    why: str
    differences: str
    score: str


def render(
    queue: Sequence[QueuedPair],
    items: Mapping[str, ShownItem],
    title: str,
    by: str,
    model: str,
    settings: ReviewPageSettings,
    *,
    served: bool,
) -> str:
    """The page; `served`: a server stores the answers. `model` is the SHA-256 of what scored the pairs.

    `InputError` when an item of the queue is not among `items`.
    """
    missing = sorted({item for asked in queue for item in asked.pair} - items.keys())
    if missing:
        raise InputError(f"`{missing[0]}` is no accepted item of this work folder; score its pairs again")
    script = (resources.files(PACKAGE) / SCRIPT).read_text("utf-8")
    thumbnails = Thumbnails(settings.side, settings.quality, settings.max_megabytes)
    values = {
        "title": title,
        "by": by,
        "model": model,
        "served": served,
        "version": DOWNLOAD_VERSION,
        "pairs": [_cards(asked, items, thumbnails, settings) for asked in queue],
        "keys": (*ANSWER_KEYS, *OTHER_KEYS, *(() if served else (SAVE_KEY,))),
        "left_out": thumbnails.left_out,
        "script": Markup(script),  # noqa: S704 (a file of ours)
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }
    return render_page(PACKAGE, TEMPLATE, values, STYLE)


def _cards(
    asked: QueuedPair, items: Mapping[str, ShownItem], thumbnails: Thumbnails, settings: ReviewPageSettings
) -> PairCards:
    first, second = (items[item] for item in asked.pair)
    left, right = compare(first.text, second.text)
    return PairCards(
        _card(first, left, thumbnails, settings),
        _card(second, right, thumbnails, settings),
        KIND_TITLES[asked.kind] + (f": {asked.dispute}" if asked.dispute else ""),
        f"Only in {first.id}: {_marked(left)}. Only in {second.id}: {_marked(right)}.",
        asked.score,
    )


def _card(item: ShownItem, words: Iterable[Words], thumbnails: Thumbnails, settings: ReviewPageSettings) -> Card:
    return Card(thumbnails.uri(item.image, item.width, item.height), item.id, clip_words(words, settings.characters))


def _marked(words: Iterable[Words]) -> str:
    return ", ".join(each.text.strip(" ;:,.") for each in words if each.differs) or NONE

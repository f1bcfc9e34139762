"""What makes two names of a picture the same, and which names are only alike.

The same are names that differ in Unicode's form (macOS decomposes accents), in leading slashes, or in the kind of slash
(Windows). They are taken. Alike are names that differ in letter case, percent-encoding, suffix or leading folders:
another picture could be meant, so the message names the one that is there.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote, unquote, unquote_plus

DRIVE_LETTER = re.compile(r"^[A-Za-z]:")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MOST_FOLDERS = 3  # in front of a name, which may be left out
MOST_NAMES = 100_000  # of one place that are looked through for one that is alike: each takes memory


def safe_name(name: str) -> str | None:
    """The name in one spelling (NFC, `/`, no leading `/`, no `./`); None for one that leads out of its place.

    Those are names with `..`, drive letters and NUL.
    """
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    plain = "/".join(parts)
    return None if "\0" in name or ".." in parts or DRIVE_LETTER.match(plain) else plain


def alike(name: str) -> Iterator[str]:
    """Other names that a safe one may stand for, the likeliest first."""
    yield from (name, unquote(name), html.unescape(name), unquote_plus(name), quote(name, errors="replace"))
    yield from (f"{name}{suffix}" for suffix in SUFFIXES)
    _, slash, inner = name.partition("/")
    if slash:
        yield inner


@dataclass(frozen=True)
class Names:
    """The names of one place, by their folded spelling; None stands for several with the same one."""

    folded: Mapping[str, str | None] = field(default_factory=dict)
    ends: Mapping[str, str | None] = field(default_factory=dict)  # by the last part, or without the first folders

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Of so many names that they can be kept; of none where there are more."""
        kept = list(names)
        if len(kept) > MOST_NAMES:
            return cls()
        return cls(_by((_fold(name), name) for name in kept), _by((end, name) for name in kept for end in _ends(name)))

    def same(self, name: str) -> str | None:
        """The name that differs in Unicode's form at most."""
        found = self.folded.get(_fold(name))
        return found if found is not None and _composed(found) == _composed(name) else None

    def alike(self, name: str) -> str | None:
        """The one name that `name` may have been meant for; None where there is none, or several."""
        guesses = map(_fold, alike(name))
        found = next((self.folded[guess] for guess in guesses if guess in self.folded), None)
        return found or self.ends.get(_fold(name))


def _by(named: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for folded, name in named:
        found[folded] = None if folded in found else name
    return found


def _ends(name: str) -> set[str]:
    """The name without its first folders, and its last part, folded."""
    parts = _fold(name).split("/", MOST_FOLDERS)
    return {parts[-1].rpartition("/")[2], *("/".join(parts[first:]) for first in range(1, len(parts)))}


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _fold(name: str) -> str:
    return _composed(_composed(name).casefold())

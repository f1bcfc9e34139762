"""Why the pairs on a page of matches have their scores, left for the next match: a pair that did not change keeps it.

The reasons compare a pair with other pairs of the catalog; kept ones were compared with pairs of the catalog of then.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from mlim.files import read_json, write_json
from mlim.matching.explain import Change, Contribution, Explanation

EXPLANATIONS_FILE: Final = "explanations.json"
ITEMS: Final = "items"

Pair = tuple[str, str]


def write_explanations(path: Path, found: Mapping[Pair, Explanation]) -> None:
    """Write the reasons of pairs of items, in which no regions of pictures were looked at."""
    names = [each.name for each in fields(Explanation)]
    write_json(path, [{ITEMS: [*pair], **{name: getattr(why, name) for name in names}} for pair, why in found.items()])


def read_explanations(path: Path, without: Iterable[str]) -> dict[Pair, Explanation]:
    """The reasons that were written, but for pairs of the items `without`; none where they cannot be read."""
    try:
        found = [_read(entry) for entry in read_json(path)]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    gone = frozenset(without)
    return {pair: why for pair, why in found if not gone & {*pair}}


def _read(entry: dict[str, Any]) -> tuple[Pair, Explanation]:
    first, second = entry.pop(ITEMS)
    entry["contributions"] = tuple(Contribution(*one) for one in entry["contributions"])
    entry["regions"] = ()
    if entry["change"] is not None:
        parts, how, score = entry["change"]
        entry["change"] = Change(tuple(parts), how, score)
    return (first, second), Explanation(**entry)

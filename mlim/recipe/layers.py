"""Values of a recipe with what says each of them, laid over one another.

A tree is a nested mapping whose leaves are `Said`; what has no keys (a number, a list, null) is a leaf.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

KIND: Final = "kind"  # tells the members of a union apart

Location = tuple[str, ...]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """One value, and what says so."""

    value: Any
    origin: str


def said(values: Mapping[str, Any], origin: str) -> Tree:
    """A tree of plain values; leaves that are `Said` already stay what they are."""
    return {str(key): _said(value, origin) for key, value in values.items()}


def _said(value: Any, origin: str) -> Any:
    if isinstance(value, Mapping):
        return said(value, origin)
    return value if isinstance(value, Said) else Said(value, origin)


def plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a tree alone."""
    return {key: plain(node) if isinstance(node, Mapping) else node.value for key, node in tree.items()}


def origins(tree: Mapping[str, Any], above: Location = ()) -> Iterator[tuple[Location, str]]:
    """Where each leaf stands, with what says it."""
    for key, node in tree.items():
        if isinstance(node, Mapping):
            yield from origins(node, (*above, key))
        else:
            yield (*above, key), node.origin


def leaves(values: Mapping[str, Any], above: Location = ()) -> Iterator[Location]:
    """Where each value of a nested mapping stands; an empty mapping has none."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*above, str(key)))
        else:
            yield (*above, str(key))


def without_other_kinds(tree: Mapping[str, Any], values: Mapping[str, Any], sections: tuple[str, ...]) -> Tree:
    """The tree without what `values` makes something else of in `sections`: its keys would not fit."""
    return {key: _of_same_kinds(node, values.get(key)) if key in sections else node for key, node in tree.items()}


def _of_same_kinds(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return below
    kept = {name: node for name, node in below.items() if not _differs(node, above.get(name))}
    return {name: _of_same_kinds(node, above.get(name)) for name, node in kept.items()}


def _differs(below: Any, above: Any) -> bool:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)) or KIND not in above:
        return False
    known = below.get(KIND)
    return isinstance(known, Said) and known.value != above[KIND]


def without_removed(tree: Mapping[str, Any], sections: tuple[str, ...]) -> Tree:
    """The tree without the entries of `sections` that a later layer has set to null."""
    return {key: _kept(node) if key in sections and isinstance(node, Mapping) else node for key, node in tree.items()}


def _kept(entries: Mapping[str, Any]) -> Tree:
    return {name: entry for name, entry in entries.items() if not (isinstance(entry, Said) and entry.value is None)}

"""Keys of recipes of earlier versions: a file that has one is read, with a warning for its author."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlim.config import merged
from mlim.errors import InputError
from mlim.recipe.layers import Location, Said

ANY: Final = "*"
REFERENCE: Final = "what the paper reports is in mlim/references/mlim.yaml, by the name of the variant"
RENAMED: Final[Mapping[Location, str]] = {("rows",): "variants", ("loader", "kept_mb"): "image_cache_mb"}
"""The new name of a key, in the same section."""
RETIRED: Final[Mapping[Location, str]] = {
    ("variants", ANY, "paper_table1"): REFERENCE,
    ("variants", ANY, "paper_table2"): REFERENCE,
}
"""Keys without an effect, and why; they are found by the new names of their sections."""


def modernise(values: dict[str, Any], where: str) -> list[str]:
    """Rename and remove what earlier versions had in one layer of values, or in a tree with some on top of it.

    Gives a sentence for each kind of key; `InputError` when a layer has a key under both of its names.
    """
    notes = []
    for location, name in RENAMED.items():
        found = [section for section in _sections(values, location[:-1]) if location[-1] in section]
        for section in found:
            if name in section and not _is_said(section[name]):
                raise InputError(
                    f"{where}: has both `{'.'.join(location)}` and `{name}`, its new name; keep the latter"
                )
            section[name] = _over(section.get(name), section.pop(location[-1]))
        notes += [_renamed(where, location)] if found else []
    for location, why in RETIRED.items():
        found = [section for section in _sections(values, location[:-1]) if location[-1] in section]
        for section in found:
            del section[location[-1]]
        notes += [f"{where}: `{'.'.join(location)}` has no effect: {why}; remove it"] if found else []
    return notes


def modernise_assignments(assignments: Sequence[str], where: str) -> tuple[list[str], list[str]]:
    """`a.b=c` assignments with the new names of the sections and keys that they lead to, and a sentence for each."""
    renamed, notes = [], []
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        keys = path.split(".")
        for location, name in RENAMED.items():
            if tuple(keys[: len(location)]) == location:
                keys[len(location) - 1] = name
                notes.append(_renamed(where, location))
        renamed.append(f"{'.'.join(keys)}{equals}{value}")
    return renamed, list(dict.fromkeys(notes))


def _renamed(where: str, location: Location) -> str:
    return f"{where}: `{'.'.join(location)}` is called `{RENAMED[location]}` now; rename it"


def _is_said(node: Any) -> bool:
    """Whether an earlier layer says a value, or some of a section."""
    return any(map(_is_said, node.values())) if isinstance(node, Mapping) else isinstance(node, Said)


def _over(new: Any, old: Any) -> Any:
    """What the new key says from now on: what the old one says, on top of what earlier layers say."""
    return merged(new, old) if isinstance(new, dict) and isinstance(old, dict) else old


def _sections(values: Any, location: Location) -> Iterator[dict[str, Any]]:
    if not isinstance(values, dict):
        return
    if not location:
        yield values
        return
    inner = values.values() if location[0] == ANY else [values.get(location[0])]
    for each in inner:
        yield from _sections(each, location[1:])

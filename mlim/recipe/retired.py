"""Keys of recipes that earlier versions had: a file that holds one is read, and the person who wrote it is told."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlim.config import merged
from mlim.recipe.layers import Location, Said

ANY: Final = "*"
RENAMED: Final[Mapping[Location, str]] = {("loader", "kept_mb"): "image_cache_mb"}
"""The new name of a key, in the same section."""
RETIRED: Final[Mapping[Location, str]] = {
    ("rows", ANY, "paper_table1"): "what the paper reports is in mlim/references/mlim.yaml, by the name of the row",
    ("rows", ANY, "paper_table2"): "what the paper reports is in mlim/references/mlim.yaml, by the name of the row",
}
"""Keys without an effect, and why."""


def modernise(values: dict[str, Any], where: str) -> list[str]:
    """Rename and remove what earlier versions had in one layer of values, or in a tree with some on top of it.

    Gives a sentence for each kind of key.
    """
    notes = []
    for location, name in RENAMED.items():
        found = [section for section in _sections(values, location[:-1]) if location[-1] in section]
        for section in found:
            section[name] = _over(section.get(name), section.pop(location[-1]))
        notes += [f"{where}: `{'.'.join(location)}` is called `{name}` now; rename it"] if found else []
    for location, why in RETIRED.items():
        found = [section for section in _sections(values, location[:-1]) if location[-1] in section]
        for section in found:
            del section[location[-1]]
        notes += [f"{where}: `{'.'.join(location)}` has no effect: {why}; remove it"] if found else []
    return notes


def _over(new: Any, old: Any) -> Any:
    """What the new key says from now on: what the old one says, unless the same layer says it under both names."""
    if isinstance(new, dict) and isinstance(old, dict):
        return merged(new, old)
    return old if new is None or isinstance(new, Said) else new


def _sections(values: Any, location: Location) -> Iterator[dict[str, Any]]:
    if not isinstance(values, dict):
        return
    if not location:
        yield values
        return
    inner = values.values() if location[0] == ANY else [values.get(location[0])]
    for each in inner:
        yield from _sections(each, location[1:])

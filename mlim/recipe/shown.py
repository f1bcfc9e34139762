"""A recipe written out whole, each value with a comment that says where it comes from."""

import textwrap
from collections.abc import Iterator
from typing import Any, Final

import yaml

from mlim.config import Config
from mlim.recipe.layers import Location
from mlim.recipe.storage import Resolved

INDENT: Final = "  "
COMMENT_COLUMN: Final = 44
LINE_LENGTH: Final = 110


def show_recipe(resolved: Resolved, explain: bool = False) -> str:
    """YAML that `load_recipe` reads back to the same recipe; `explain` adds above each key what it means."""
    return "".join(f"{line}\n" for line in _lines(resolved.recipe, resolved, (), explain))


def _lines(node: Any, resolved: Resolved, above: Location, explain: bool) -> Iterator[str]:
    """The lines of a section: of its settings, or of its entries by name."""
    margin = INDENT * len(above)
    written = node.model_dump(mode="json") if isinstance(node, Config) else node  # as it is stored
    for key, value in dict(node).items():
        if key not in written:  # what is not in use is not stored either
            continue
        if explain:
            yield from _comment(_meaning(node, key), margin)
        if isinstance(value, Config) or (isinstance(value, dict) and value):
            yield f"{margin}{_flow(key)}:"
            yield from _lines(value, resolved, (*above, key), explain)
        else:
            line = f"{margin}{_flow(key)}: {_flow(written[key])}"
            yield f"{line:<{COMMENT_COLUMN}}  # {resolved.origin((*above, key))}"


def _meaning(node: Any, key: str) -> str:
    """What a setting is for; of a section, the first sentence of what its class says of itself."""
    field = type(node).model_fields.get(key) if isinstance(node, Config) else None
    if field is not None and field.description:
        return field.description
    value = dict(node)[key]
    return (type(value).__doc__ or "").split("\n\n")[0] if isinstance(value, Config) and field is not None else ""


def _comment(text: str, margin: str) -> list[str]:
    words = " ".join(text.split())
    return [f"{margin}# {line}" for line in textwrap.wrap(words, LINE_LENGTH - len(margin))]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")

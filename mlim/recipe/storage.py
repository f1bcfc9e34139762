"""Recipes by name, which come with the package, and recipes in files: what they say, and the recipe that it makes.

A recipe says only what differs from the recipe that it extends, and in the end from the defaults of the tree.
"""

import shlex
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic_core import to_jsonable_python

from mlim.config import load_yaml, merged, nearest, override, parse, read_yaml
from mlim.errors import InputError
from mlim.recipe.layers import Location, Tree, leaves, origins, plain, said, without_other_kinds, without_removed
from mlim.recipe.retired import modernise, modernise_assignments
from mlim.recipe.tree import Recipe

DEFAULT: Final = "default"
SETTING: Final = "--set"
EXTENDS: Final = "extends"
SUFFIXES: Final = frozenset({".yaml", ".yml"})
BY_NAME: Final = tuple(
    name for name, field in Recipe.model_fields.items() if typing.get_origin(field.annotation) is dict
)
"""Sections that hold entries by name: a recipe adds one, changes it, or removes it with `NAME: null`."""


@dataclass(frozen=True)
class Resolved:
    """A recipe with the origin of each value: `default`, the recipe that says it by name or file, or `--set`.

    `notes` are sentences for the person who wrote it.
    """

    recipe: Recipe
    origins: Mapping[Location, str]
    notes: tuple[str, ...]

    def origin(self, location: Location) -> str:
        """What says the value that stands at `location`."""
        return self.origins.get(location, DEFAULT)


@dataclass(frozen=True)
class _Layer:
    """What one recipe says itself, and the recipe that it extends."""

    origin: str
    values: dict[str, Any]
    extends: str | None


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = resources.files("mlim") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_purpose(name: str) -> str:
    """What a recipe of the package is for: the comment at its top, on one line."""
    lines = _packaged(name).splitlines()
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.removeprefix("#").strip() for line in lines[:first])


def load_recipe(
    name_or_file: str, assignments: Sequence[str] = (), warn: Callable[[str], None] | None = None
) -> Recipe:
    """A recipe by name or YAML file with `a.b=c` assignments applied; `InputError` lists every problem.

    `warn` is called with a sentence about each key of earlier versions.
    """
    resolved = resolve(name_or_file, assignments)
    if warn is not None:
        for note in resolved.notes:
            warn(note)
    return resolved.recipe


def stored_recipe(path: Path) -> Recipe:
    """A recipe that stands beside results: complete, so that no other file is read; `InputError` for another."""
    if EXTENDS in read_yaml(path):
        raise InputError(f"{path}: extends another recipe, but what stands beside results is complete; put that there")
    return load_recipe(str(path))


def complete_recipe(path: Path) -> Recipe:
    """A recipe that says every value itself, for a reader that knows no defaults and no names of earlier versions.

    `InputError` for another.
    """
    resolved = resolve(str(path))
    settings = list(leaves(resolved.recipe.model_dump(mode="json")))
    unsaid = [".".join(setting) for setting in settings if resolved.origin(setting) != str(path)]
    cure = f"write it anew with `mlim recipe show {shlex.quote(str(path))} --out new.yaml`, and rename new.yaml to it"
    if unsaid:
        more = f" and {len(unsaid) - 1} more" if len(unsaid) > 1 else ""
        raise InputError(f"{path}: does not say {unsaid[0]}{more}, and DVC sees no defaults; {cure}")
    if resolved.notes:
        raise InputError(f"{path}: has keys of earlier versions, which DVC does not find; {cure}")
    return resolved.recipe


def resolve(name_or_file: str, assignments: Sequence[str] = ()) -> Resolved:
    """A recipe as `load_recipe` reads it, and where each of its values comes from."""
    tree, notes, problems = said(_defaults(), DEFAULT), list[str](), list[str]()
    for layer in reversed(list(_layers(name_or_file))):
        notes += modernise(layer.values, f"recipe {layer.origin}")
        problems += _removed_in_vain(tree, layer)
        below = without_other_kinds(tree, layer.values, BY_NAME)
        tree = without_removed(merged(below, said(layer.values, layer.origin)), BY_NAME)
    if problems:
        raise InputError(*problems)
    renamed, renamings = modernise_assignments(assignments, SETTING)
    tree = override(tree, renamed)
    notes += [*renamings, *modernise(tree, SETTING)]
    tree = without_removed(said(tree, SETTING), BY_NAME)
    found = dict(origins(tree))
    recipe = parse(Recipe, plain(tree), lambda location: f"recipe {_to_blame(name_or_file, found, location)}")
    return Resolved(recipe, found, tuple(notes))


def _defaults() -> dict[str, Any]:
    fields = {name: field for name, field in Recipe.model_fields.items() if not field.is_required()}
    return {name: to_jsonable_python(field.get_default(call_default_factory=True)) for name, field in fields.items()}


def _layers(name_or_file: str) -> Iterator[_Layer]:
    """The recipe itself, the one that it extends, and so on; `InputError` when that leads back to one of them."""
    known: list[str] = []
    layer = _read(name_or_file)
    yield layer
    while layer.extends is not None:
        known.append(_identity(layer.origin))
        if _identity(layer.extends) in known:
            raise InputError(
                f"recipe {layer.origin}: extends {layer.extends}, which extends it; remove one `{EXTENDS}`"
            )
        try:
            layer = _read(layer.extends)
        except InputError as error:
            raise InputError(*(f"{problem}; recipe {layer.origin} extends it" for problem in error.problems)) from None
        yield layer


def _read(name_or_file: str) -> _Layer:
    path = Path(name_or_file)
    if _is_file(name_or_file):
        values = read_yaml(path)
    elif name_or_file in recipe_names():
        values = dict(load_yaml(_packaged(name_or_file)))
    else:
        known = nearest(name_or_file, recipe_names())
        raise InputError(f"unknown recipe `{name_or_file}`{known}; give a name or a .yaml file")
    extends = values.pop(EXTENDS, None)
    if not isinstance(extends, str | None):
        raise InputError(f"recipe {name_or_file}: `{EXTENDS}` takes one name or one .yaml file, got {extends!r}")
    if extends is not None and _is_file(extends):
        extends = str(path.parent / extends)
    return _Layer(name_or_file, {"name": path.stem, **values}, extends)


def _is_file(name_or_file: str) -> bool:
    return Path(name_or_file).suffix in SUFFIXES


def _identity(name_or_file: str) -> str:
    return str(Path(name_or_file).resolve()) if _is_file(name_or_file) else name_or_file


def _packaged(name: str) -> str:
    return (resources.files("mlim") / "recipes" / f"{name}.yaml").read_text("utf-8")


def _removed_in_vain(tree: Tree, layer: _Layer) -> list[str]:
    """A sentence for each entry that a recipe removes and that is not there."""
    problems = []
    for section in BY_NAME:
        entries, present = layer.values.get(section), tree.get(section, {})
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            if entry is None and name not in present:
                hint = nearest(str(name), list(present))
                problems.append(f"recipe {layer.origin}: `{section}.{name}: null` removes nothing{hint}")
    return problems


def _to_blame(name_or_file: str, found: Mapping[Location, str], location: Location) -> str:
    """The recipe that says what stands at `location`, as far as it is one of those that are extended."""
    sayers = {origin for place, origin in found.items() if place[: len(location)] == location}
    return sayers.pop() if len(sayers) == 1 and sayers.isdisjoint({DEFAULT, SETTING}) else name_or_file

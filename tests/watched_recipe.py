"""A recipe that notes which of its settings are read, and by code that can change a result."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from mlim.config import Config
from mlim.recipe import Recipe

# these only record what was done (mlim.steps.closure), and MLflow and the writer's lock are given the whole recipe;
# which recipes read annotations is said by the files that dvc.yaml names
NOT_COUNTED = frozenset(
    f"mlim.{name}"
    for name in ("tracking", "offline", "versions", "console", "writer", "recipe.record", "recipe.annotated")
)


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """The keys of single settings below `path`: `pretrain.optim.betas`."""
    if not isinstance(values, Mapping):
        yield path
        return
    for key, value in values.items():
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def watched(recipe: Recipe, seen: set[str]) -> Recipe:
    """An equal recipe whose reads are added to `seen`, as keys of single settings."""
    copy: Recipe = _watch(recipe, "", seen)
    return copy


def _watch(value: Any, path: str, seen: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _watch(each, _joined(path, name), seen) for name, each in value.items()}
    if not isinstance(value, Config):
        return value
    fields = {name: _watch(getattr(value, name), _joined(path, name), seen) for name in type(value).model_fields}
    return _watching_class(type(value), path, seen).model_construct(**fields)


def _watching_class(kind: type[Config], path: str, seen: set[str]) -> Any:
    def note(name: str, value: Any) -> None:
        if _counts():
            seen.update(key for key in [_joined(path, name)] if not isinstance(value, Config | dict))

    class Watching(kind):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if (field := kind.model_fields.get(name)) is not None and not (
                field.exclude_if and field.exclude_if(value)
            ):
                note(name, value)  # but for what a recipe that does not use it is written without
            return value

        def __iter__(self) -> Any:
            return ((name, getattr(self, name)) for name in kind.model_fields)

        def model_dump(self, **options: Any) -> Any:
            values = super().model_dump(**options)
            seen.update(leaves(values, path) if _counts() else ())
            return values

    return Watching


def _counts() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") in NOT_COUNTED:
            return False
        frame = frame.f_back
    return True


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

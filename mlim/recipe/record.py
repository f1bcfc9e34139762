"""What is written down of a recipe where something is made with it: in work folders and with runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mlim.recipe.tracking import TrackingConfig


class _Recipe(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def tracking(self) -> TrackingConfig: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...
    def to_yaml(self) -> str: ...


@dataclass(frozen=True)
class RecipeRecord:
    """A whole recipe to be stored, not to be read from: its name, every value as JSON has it and as YAML text."""

    name: str
    values: Mapping[str, Any]
    text: str
    tracking: TrackingConfig


def record_of(recipe: _Recipe) -> RecipeRecord:
    """The record of a recipe."""
    return RecipeRecord(recipe.name, recipe.model_dump(mode="json"), recipe.to_yaml(), recipe.tracking)

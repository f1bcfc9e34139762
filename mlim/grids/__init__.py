"""Declared experiments: which rows of a recipe, and which variants of it, answer a question.

A grid is a YAML file of this package. Rows are the recipe's own; a variant is the recipe with a few settings changed,
of which the main row is trained. What is to be chosen is judged on the validation pairs, so that the test pairs, on
which claims are judged, have never chosen anything.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Literal, Self

import yaml
from pydantic import model_validator

from mlim.config import Config, nearest, override, parse
from mlim.errors import InputError
from mlim.recipe import Recipe

SUFFIX = ".yaml"


class Grid(Config):
    """One experiment."""

    question: str
    rows: tuple[str, ...]
    variants: Mapping[str, tuple[str, ...]]
    probe: bool
    judged_on: Literal["test", "validation"]
    equal_budgets: bool

    @model_validator(mode="after")
    def _fair(self) -> Self:
        if self.judged_on == "test" and not self.equal_budgets:
            raise ValueError("judged_on: test asks for equal_budgets: a claim about unequal spending is none")
        return self


def grid_names() -> list[str]:
    """The names of all grids."""
    entries = (entry.name for entry in (resources.files("mlim") / "grids").iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in entries if name.endswith(SUFFIX))


def judged_on_test() -> frozenset[str]:
    """The variants of all grids whose test scores may be looked at."""
    grids = map(load_grid, grid_names())
    return frozenset(variant for grid in grids if grid.judged_on == "test" for variant in grid.variants)


def load_grid(name: str) -> Grid:
    """A grid by name; `InputError` for one that is not there."""
    if name not in grid_names():
        raise InputError(f"--grid {name}: no such grid{nearest(name, grid_names())}")
    text = (resources.files("mlim") / "grids" / f"{name}{SUFFIX}").read_text("utf-8")
    return parse(Grid, yaml.safe_load(text), f"grid {name}")


def rows_of(recipe: Recipe, grid: Grid) -> Recipe:
    """The recipe with the rows of the grid alone, the main one among them; `InputError` when it lacks one."""
    problems = [f"rows: no `{row}`{nearest(row, list(recipe.rows))}" for row in grid.rows if row not in recipe.rows]
    if problems:
        raise InputError(*problems)
    wanted = dict.fromkeys((recipe.main, *grid.rows))
    return recipe.model_copy(update={"rows": {row: recipe.rows[row] for row in wanted}})


def variant_of(recipe: Recipe, name: str, settings: tuple[str, ...]) -> Recipe:
    """The recipe with other settings and its main row alone; `InputError` when they do not fit it."""
    alone = recipe.model_copy(update={"name": f"{recipe.name}-{name}", "rows": {recipe.main: recipe.main_row}})
    return parse(Recipe, override(alone.model_dump(mode="json"), settings), f"variant {name}")

"""What a training found out for itself, for the steps that use its model."""

from pathlib import Path

from mlim.files import read_json
from mlim.recipe import AUTO, Recipe

SUMMARY_FILE = "summary.json"


def as_trained(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the longest text as the training that left `folder` read it."""
    max_tokens = read_json(folder / SUMMARY_FILE).get("max_tokens") if recipe.text.max_tokens == AUTO else None
    return recipe if max_tokens is None else recipe.reading(max_tokens)

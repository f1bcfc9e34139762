"""Work folders of catalogs whose description says `pairs: none`: items are split, and nothing in them matches."""

import pyarrow.parquet as pq

from mlim.errors import InputError
from mlim.recipe import Recipe
from mlim.workspace import Workspace


def has_pairs(workspace: Workspace) -> bool:
    """Whether there is anything to match; where nothing was paired yet, there may be."""
    path = workspace.pairs / "pairs.parquet"
    return not path.is_file() or pq.read_metadata(path).num_rows > 0


def require_pairs(workspace: Workspace, command: str) -> None:
    """`InputError` when there are no pairs, which `command` is about."""
    if not has_pairs(workspace):
        raise InputError(
            f"mlim {command}: is about pairs, and {workspace.pairs / 'pairs.parquet'} has none (`pairs: none` in the "
            "catalog); use `mlim ablate`, which compares the variants of other tasks"
        )


def comparable(recipe: Recipe, workspace: Workspace) -> Recipe:
    """The recipe; without pairs, its variants of other tasks than matching alone (`InputError` where that are none)."""
    return recipe if has_pairs(workspace) else other_tasks_alone(recipe)


def other_tasks_alone(recipe: Recipe) -> Recipe:
    """The recipe with its variants of other tasks than matching; `InputError` where that are none."""
    others = {name: variant for name, variant in recipe.variants.items() if variant.task != "match"}
    if not others:
        raise InputError(
            f"recipe {recipe.name}: all its variants match, and the catalog has no pairs (`pairs: none`); choose a "
            "recipe with variants of other tasks, as systems-demo, or another catalog"
        )
    return recipe.model_copy(update={"variants": others})

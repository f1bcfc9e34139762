"""`mlim compare A B`: two registered versions on the same test pairs, each with its own code in its own process."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mlim.errors import InputError
from mlim.evaluation.behaviour import fields_of
from mlim.evaluation.evidence import judged_pairs
from mlim.evaluation.groups import ACROSS
from mlim.evaluation.promotion import Comparison, compare_answers
from mlim.evaluation.resampling import Resampling
from mlim.recipe import Recipe
from mlim.registry import Registry
from mlim.shards.items import open_items
from mlim.steps.behaviour import sent
from mlim.steps.own_process import answer_alone
from mlim.steps.seen import KEYS, items_of, learned_from
from mlim.workspace import Workspace

LABELS: Final = (0, 1)


def compare(recipe: Recipe, workspace: Workspace, registry: Registry, first: str, second: str) -> Comparison:
    """Two versions (numbers) on the test pairs of a work folder that neither has learned from.

    Left out are pairs with an item whose id, family or picture is that of an item that one of the two learned from.

    `InputError` without pairs, or when one of the two has learned from too many of them; `ChangedFilesError` when the
    files of a version are not those that were registered, `MlimError` when it does not answer.
    """
    pairs = read_test_pairs(workspace)
    seen = {version: items_of(recipe.tracking, registry, version) for version in (first, second)}
    index = pq.read_table(workspace.valid / "index.parquet", columns=[*KEYS, "category"]).to_pandas()
    fresh = _unseen(pairs, index, [learned_from(items) for items in seen.values() if items is not None])
    if fresh["label"].nunique() < len(LABELS):
        raise InputError(
            f"{registry.name}: {len(fresh)} of the {len(pairs)} test pairs of {workspace.root} hold no item that "
            f"version {first} or {second} has learned from (by id, family or picture), and not of both labels; "
            "compare them in another work folder"
        )
    size, timed = recipe.evaluate.batch_size, recipe.promotion.timed_requests
    answers = [
        answer_alone(registry, version, requests(recipe, workspace, fresh, size), timed) for version in (first, second)
    ]
    return compare_answers(
        judged_pairs(fresh, workspace),
        _categories(fresh, index),
        (first, second),
        (answers[0], answers[1]),
        Resampling(recipe.evaluate.bootstrap_samples, recipe.evaluate.confidence, recipe.seed),
        left_out=len(pairs) - len(fresh),
        unknown=[version for version, items in seen.items() if items is None],
    )


def compare_choices(recipe: Recipe, workspace: Workspace, first: str, second: str) -> Comparison:
    """Two versions of the recipe's model, each given as a number or an alias; as `compare`."""
    registry = Registry(recipe.tracking)
    return compare(recipe, workspace, registry, registry.version_of(first), registry.version_of(second))


def read_test_pairs(workspace: Workspace) -> pd.DataFrame:
    """The test pairs of a work folder; `InputError` without any."""
    path = workspace.pairs / "pairs.parquet"
    if not path.is_file():
        raise InputError(f"{path} is missing; run `mlim pairs` first")
    frame: pd.DataFrame = pq.read_table(path, filters=[("split", "=", "test")]).to_pandas()
    return frame


def requests(recipe: Recipe, workspace: Workspace, pairs: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """The pairs as a client would send them, `size` at a time."""
    yield from sent(open_items(recipe.loader, workspace), fields_of(pairs), size)


def _unseen(pairs: pd.DataFrame, index: pd.DataFrame, seen: list[dict[str, frozenset[str]]]) -> pd.DataFrame:
    """The pairs without items that share id, family or picture with one that a version has learned from."""
    learned = [index[key].isin(values) for found in seen for key, values in found.items()]
    known = index["id"][np.any(learned, axis=0)] if learned else []
    touched = pairs["item_a"].isin(known) | pairs["item_b"].isin(known)
    return pairs[~touched].reset_index(drop=True)


def _categories(pairs: pd.DataFrame, index: pd.DataFrame) -> list[str]:
    """The category of each pair: of both items, or `ACROSS`; empty for items without one."""
    categories = dict(zip(index["id"], index["category"].fillna(""), strict=True))
    first, second = (pairs[side].map(categories) for side in ("item_a", "item_b"))
    return list(np.where(first == second, first, ACROSS))

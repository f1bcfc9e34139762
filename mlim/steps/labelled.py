"""The labels of a catalog's own table: the pairs that they make, and how many the last training did not have."""

from collections.abc import Set as AbstractSet
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from mlim.catalog.description import load_description
from mlim.catalog.quarantine import QUARANTINE_FILE, read_quarantine
from mlim.errors import InputError
from mlim.files import read_json
from mlim.pairs.user_pairs import LABELLED_KINDS, read_user_pairs, user_pairs
from mlim.recipe import Recipe
from mlim.workspace import Workspace

LABELLED = ["item_a", "item_b", "label"]

Labelled = tuple[str, str, int]


def labelled_pairs(path: Path, accepted: AbstractSet[str], workspace: Workspace) -> tuple[pd.DataFrame, dict[str, int]]:
    """The pairs that the table at `path` labels and how many it has that cannot be used, as `user_pairs` gives them."""
    quarantines = [folder / QUARANTINE_FILE for folder in (workspace.items, workspace.valid)]
    quarantined = {item for path in quarantines if path.is_file() for item in read_quarantine(path)["id"]}
    return user_pairs(read_user_pairs(path), str(path), accepted, quarantined)


def count_new_labels(recipe: Recipe, catalog: Path, workspace: Workspace) -> int:
    """How many pairs have a label that the last training of the main model did not have; a changed label is new.

    `InputError` when the catalog names no table of labels, the table is wrong, or the work folder has no items.
    """
    path = load_description(catalog).pairs.labelled
    if path is None:
        raise InputError(f"{catalog}: names no table of labels; set pairs.labelled to the table of `mlim review`")
    index = workspace.valid / "index.parquet"
    if not index.is_file():
        raise InputError(f"{index} is missing; run `mlim ingest` and `mlim validate` first")
    if not path.is_file():
        return 0  # nobody has answered yet
    pairs, _ = labelled_pairs(path, set(pq.read_table(index, columns=["id"])["id"].to_pylist()), workspace)
    used, left_out = _trained(recipe, workspace)
    return max(0, len(_labels(pairs) - used) - left_out)


def _trained(recipe: Recipe, workspace: Workspace) -> tuple[set[Labelled], int]:
    """The labelled pairs that the main model was trained with, and how many more `mlim pairs` had read by then."""
    made = workspace.pairs / "pairs.parquet"
    trained = workspace.finetuned(recipe.main, recipe.seeds[0]) / "summary.json"
    if not (made.is_file() and trained.is_file() and made.stat().st_mtime <= trained.stat().st_mtime):
        return set(), 0
    used = _labels(pq.read_table(made, filters=[("kind", "in", LABELLED_KINDS)], columns=LABELLED).to_pandas())
    return used, read_json(workspace.pairs / "summary.json")["candidates"] - len(used) if used else 0


def _labels(pairs: pd.DataFrame) -> set[Labelled]:
    """Each pair once, whatever the order of its items."""
    rows = pairs[LABELLED].itertuples(index=False)
    return {(min(one, other), max(one, other), int(label)) for one, other, label in rows}

"""The labels of a catalog's own table: the pairs that they make, and how many the last training did not have."""

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow.parquet as pq

from mlim.catalog.description import load_description
from mlim.catalog.quarantine import QUARANTINE_FILE, read_quarantine
from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.pairs.user_pairs import LABELLED_KINDS, read_user_pairs, user_pairs
from mlim.recipe import Recipe
from mlim.workspace import Workspace

LABELLED = ["item_a", "item_b", "label"]
LABELS_FILE: Final = "labels.json"

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


def keep_labels(workspace: Workspace, folder: Path) -> None:
    """Write into the folder of a fine-tuning on which labelled pairs it was; nothing where there are none."""
    used = _used(workspace)
    if used:
        left_out = _candidates(workspace) - len(used)
        write_json(folder / LABELS_FILE, {"pairs": sorted(used), "left_out": left_out})


def _trained(recipe: Recipe, workspace: Workspace) -> tuple[set[Labelled], int]:
    """The labelled pairs that the main model was trained with, and how many more `mlim pairs` had read by then.

    Fine-tunings of earlier versions did not keep them: those of `mlim pairs` count, if they are older.
    """
    kept = workspace.finetuned(recipe.main, recipe.seeds[0]) / LABELS_FILE
    if kept.is_file():
        found = read_json(kept)
        return {(one, other, label) for one, other, label in found["pairs"]}, found["left_out"]
    made = workspace.pairs / "pairs.parquet"
    trained = workspace.finetuned(recipe.main, recipe.seeds[0]) / "summary.json"
    if not (made.is_file() and trained.is_file() and made.stat().st_mtime <= trained.stat().st_mtime):
        return set(), 0
    used = _used(workspace)
    return used, _candidates(workspace) - len(used) if used else 0


def _used(workspace: Workspace) -> set[Labelled]:
    """The labelled pairs among those of `mlim pairs`."""
    filters = [("kind", "in", LABELLED_KINDS)]
    return _labels(pq.read_table(workspace.pairs / "pairs.parquet", filters=filters, columns=LABELLED).to_pandas())


def _candidates(workspace: Workspace) -> int:
    """How many labels `mlim pairs` read."""
    return int(read_json(workspace.pairs / "summary.json")["candidates"])


def _labels(pairs: pd.DataFrame) -> set[Labelled]:
    """Each pair once, whatever the order of its items."""
    rows = pairs[LABELLED].itertuples(index=False)
    return {(min(one, other), max(one, other), int(label)) for one, other, label in rows}

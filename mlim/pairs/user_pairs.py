"""The user's own pairs: a table with item_a, item_b and label, checked against the catalog."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np
import pandas as pd

from mlim.catalog.values import tidy
from mlim.errors import InputError
from mlim.pairs.labels import LABELLED_COLUMNS, LABELS, MATCH, MISMATCH
from mlim.sources.table import column_names, read_table

SHOWN_PROBLEMS = 20


def read_user_pairs(path: Path) -> pd.DataFrame:
    """The user's own pairs as texts item_a, item_b, label; `InputError` when the table or a column is missing."""
    if not path.is_file():
        raise InputError(f"{path}: no such table of labelled pairs; check pairs.labelled in the catalog's description")
    missing = [column for column in LABELLED_COLUMNS if column not in column_names(path)]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}; it needs {', '.join(LABELLED_COLUMNS)}")
    return read_table(path, LABELLED_COLUMNS)


def user_pairs(
    table: pd.DataFrame, where: str, accepted: AbstractSet[str], quarantined: AbstractSet[str]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The user's own pairs (texts item_a, item_b, label) in canonical order, and how many were left out and why.

    A pair with a `quarantined` item is dropped; `InputError` lists unknown ids, labels other than 0 and 1,
    items paired with themselves, and pairs given with both labels.
    """
    clean = _tidied(table, accepted | quarantined)
    problems = [*_row_problems(clean, where, accepted | quarantined), *_contradictions(clean, where)]
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        raise InputError(*problems[:SHOWN_PROBLEMS], *([f"{where}: and {more} more problems"] if more > 0 else []))
    ordered = np.sort(clean[["item_a", "item_b"]].to_numpy(dtype=object), axis=1)
    label = clean["label"].map(LABELS).astype(np.int8)
    kind = label.map({MATCH: "labelled match", MISMATCH: "labelled mismatch"})
    pairs = pd.DataFrame({"item_a": ordered[:, 0], "item_b": ordered[:, 1], "label": label, "kind": kind})
    unique = pairs.drop_duplicates(["item_a", "item_b"])
    usable = unique[unique["item_a"].isin(accepted) & unique["item_b"].isin(accepted)]
    skipped = {"repeated pair": len(pairs) - len(unique), "quarantined item": len(unique) - len(usable)}
    return usable.sort_values(["item_a", "item_b"], ignore_index=True), skipped


def _tidied(table: pd.DataFrame, known: AbstractSet[str]) -> pd.DataFrame:
    """The table without blanks around its cells; an id that the catalog itself writes with blanks keeps them."""
    ids = {side: [item if item in known else tidy(item) for item in table[side]] for side in ("item_a", "item_b")}
    return table[list(LABELLED_COLUMNS)].assign(**ids, label=table["label"].map(tidy))


def _row_problems(table: pd.DataFrame, where: str, known: AbstractSet[str]) -> Iterator[str]:
    for row, (first, second, label) in enumerate(table.itertuples(index=False), start=1):
        for column, item in (("item_a", first), ("item_b", second)):
            if item not in known:
                yield f"{where}: row {row}: {column} `{item}` is no item of the catalog"
        if first == second:
            yield f"{where}: row {row}: `{first}` is paired with itself"
        if label not in LABELS:
            yield f"{where}: row {row}: label `{label}` is neither 1 (match) nor 0 (mismatch)"


def _contradictions(table: pd.DataFrame, where: str) -> Iterator[str]:
    seen: dict[frozenset[str], tuple[int, str]] = {}
    for row, (first, second, label) in enumerate(table.itertuples(index=False), start=1):
        earlier, given = seen.setdefault(frozenset((first, second)), (row, label))
        if given != label:
            yield f"{where}: row {row}: `{first}` and `{second}` have label {label} here and {given} in row {earlier}"

"""The user's own pairs: a table with item_a, item_b and label, checked against the catalog.

A table that also says who answered and when (`by`, `at`, as `mlim review` writes it) only ever grows: it may hold
answers that are unsure or contradict each other, and pairs of items that have left the catalog. These pairs are left
out and counted.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import starmap
from pathlib import Path

import numpy as np
import pandas as pd

from mlim.catalog.values import tidy
from mlim.errors import InputError
from mlim.files import plain_cell
from mlim.pairs.answers import UNSURE, Answer, settle
from mlim.pairs.labels import LABELLED_COLUMNS, LABELS, MATCH, MISMATCH
from mlim.sources.table import column_names, read_table

SHOWN_PROBLEMS = 20
REVIEWER, TIME = "by", "at"  # of a table of answers
LABELLED_KINDS = ("labelled match", "labelled mismatch")
GONE = "item has left the catalog"
LABEL_AS_DECIMAL = re.compile(r"([01])\.0+")  # what pandas makes of 1 and 0 in a column with gaps


def read_user_pairs(path: Path) -> pd.DataFrame:
    """The user's own pairs as texts item_a, item_b, label, and who answered, and when, where it says so.

    `InputError` when the table or a column is missing.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table of labelled pairs; check pairs.labelled in the catalog's description")
    columns = column_names(path)
    missing = [column for column in LABELLED_COLUMNS if column not in columns]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}; it needs {', '.join(LABELLED_COLUMNS)}")
    return read_table(path, (*LABELLED_COLUMNS, *((REVIEWER, TIME) if {REVIEWER, TIME} <= {*columns} else ())))


def user_pairs(
    table: pd.DataFrame, where: str, accepted: AbstractSet[str], quarantined: AbstractSet[str]
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The user's own pairs (texts item_a, item_b, label) in canonical order, and how many were left out and why.

    A pair with a `quarantined` item is dropped; `InputError` lists unknown ids, labels other than 0 and 1,
    items paired with themselves, and pairs given with both labels. In a table of answers (columns `by` and `at`) pairs
    without a clear answer are dropped instead (`mlim.pairs.answers.settle`), and so are those with an unknown id,
    unless all ids are unknown or the catalog has the id with leading zeros.
    """
    known = accepted | quarantined
    clean = _tidied(table, known)
    problems = [*_row_problems(clean, where, known)]
    problems += [] if REVIEWER in clean else _contradictions(clean, where)
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        raise InputError(*problems[:SHOWN_PROBLEMS], *([f"{where}: and {more} more problems"] if more > 0 else []))
    settled, unclear = _settled(clean) if REVIEWER in clean else (clean, {})
    ordered = np.sort(settled[["item_a", "item_b"]].to_numpy(dtype=object), axis=1)
    label = settled["label"].map(LABELS).astype(np.int8)
    kind = label.map(dict(zip((MATCH, MISMATCH), LABELLED_KINDS, strict=True)))
    pairs = pd.DataFrame({"item_a": ordered[:, 0], "item_b": ordered[:, 1], "label": label, "kind": kind})
    unique = pairs.drop_duplicates(["item_a", "item_b"])
    there = unique[unique["item_a"].isin(known) & unique["item_b"].isin(known)]
    usable = there[there["item_a"].isin(accepted) & there["item_b"].isin(accepted)]
    skipped = {"repeated pair": len(pairs) - len(unique), "quarantined item": len(there) - len(usable), **unclear}
    if REVIEWER in clean:
        skipped[GONE] = len(unique) - len(there)
    return usable.sort_values(["item_a", "item_b"], ignore_index=True), skipped


def _settled(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """The pairs of a table of answers that have a clear one, and how many have none."""
    found = settle(starmap(Answer, table[[*LABELLED_COLUMNS, REVIEWER, TIME]].itertuples(index=False)))
    rows = [(*pair, label) for pair, label in found.labels.items()]
    unclear = {"unsure answer": len(found.unsure), "contradicting answers": len(found.contradicting)}
    return pd.DataFrame(rows, columns=list(LABELLED_COLUMNS), dtype="str"), unclear


def _tidied(table: pd.DataFrame, known: AbstractSet[str]) -> pd.DataFrame:
    """The table without blanks around its cells; an id that the catalog itself writes with blanks keeps them."""
    ids = {side: [_known_id(item, known) for item in table[side]] for side in ("item_a", "item_b")}
    return table.assign(**ids, label=[_label(cell) for cell in table["label"]])


def _label(cell: str) -> str:
    decimal = LABEL_AS_DECIMAL.fullmatch(tidy(cell))
    return decimal[1] if decimal else tidy(cell)


def _known_id(cell: str, known: AbstractSet[str]) -> str:
    """The id that a cell means: as it is, without blanks around it, or without the mark of a spreadsheet's text."""
    return next((item for item in (cell, tidy(cell), plain_cell(tidy(cell))) if item in known), tidy(cell))


def _row_problems(table: pd.DataFrame, where: str, known: AbstractSet[str]) -> Iterator[str]:
    labels = {*LABELS, UNSURE} if REVIEWER in table else {*LABELS}
    shortened = _shortened_ids(table, known)
    may_be_gone = REVIEWER in table and bool(table[["item_a", "item_b"]].isin(known).to_numpy().any())
    for row, (first, second, label) in enumerate(table[list(LABELLED_COLUMNS)].itertuples(index=False), start=1):
        for column, item in (("item_a", first), ("item_b", second)):
            if item in shortened:
                yield (
                    f"{where}: row {row}: {column} `{item}` is no item of the catalog, but `{shortened[item]}` is; a "
                    "spreadsheet removes leading zeros: read the column as text there"
                )
            elif item not in known and not may_be_gone:
                yield f"{where}: row {row}: {column} `{item}` is no item of the catalog"
        if first == second:
            yield f"{where}: row {row}: `{first}` is paired with itself"
        if label not in labels:
            yield f"{where}: row {row}: label `{label}` is neither 1 (match) nor 0 (mismatch)"


def _shortened_ids(table: pd.DataFrame, known: AbstractSet[str]) -> dict[str, str]:
    """Unknown numbers of a table -> the only id of the catalog that is the same number with leading zeros."""
    unknown = {item for side in ("item_a", "item_b") for item in table[side] if item.isdecimal() and item not in known}
    if not unknown:
        return {}
    numbers: dict[str, list[str]] = defaultdict(list)
    for item in known:
        if item.startswith("0") and item.isdecimal():
            numbers[item.lstrip("0")].append(item)
    found = {item: numbers.get(item.lstrip("0"), []) for item in unknown}
    return {item: ids[0] for item, ids in found.items() if len(ids) == 1}


def _contradictions(table: pd.DataFrame, where: str) -> Iterator[str]:
    seen: dict[frozenset[str], tuple[int, str]] = {}
    for row, (first, second, label) in enumerate(table.itertuples(index=False), start=1):
        earlier, given = seen.setdefault(frozenset((first, second)), (row, label))
        if given != label:
            yield f"{where}: row {row}: `{first}` and `{second}` have label {label} here and {given} in row {earlier}"

"""The columns of a catalog that rules of matching read, as numbers: for joins and for hard rules."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.catalog.match_rules import BlockColumn, MatchRules
from mlim.catalog.values import Values
from mlim.errors import InputError
from mlim.matching.never import HardRules
from mlim.pairs.variation import EMPTY, Numbers, row_numbers, value_numbers


@dataclass(frozen=True)
class Block:
    """One blocking rule: items of equal `key` (n,) are candidates; -1: the item has no value, it is in no block.

    With `level` (n,) they must also lie within `width` of each other there: the logarithms of a banded column. `unread`
    items have a value there that is no positive number, so that they are in no block.
    """

    name: str
    key: Numbers
    level: NDArray[np.float64] | None = None
    width: float = 0.0
    unread: int = 0


def read_rules(items: pd.DataFrame, rules: MatchRules, values: Values) -> tuple[list[Block], HardRules]:
    """The blocking rules and the hard rules of a catalog over `items` (family, attributes, facts: JSON).

    `InputError` when the items lack a column that a rule names: they were ingested before it did.
    """
    places = {name: _place(items, name) for name in rules.columns}
    missing = [name for name, place in places.items() if place is None]
    if missing:
        raise InputError(
            f"matching: the ingested items lack the column{'s' * (len(missing) > 1)} {', '.join(missing)}; run "
            "`mlim ingest` and `mlim validate` again"
        )
    cells = {name: items[place] for name, place in places.items() if place is not None}
    numbers = {name: value_numbers(column, (name,), values)[:, 0] for name, column in cells.items()}
    families = np.asarray(pd.factorize(items["family"])[0], dtype=np.int64)
    blocks = [_block(block, numbers, cells) for block in rules.blocks]
    together = np.column_stack([*numbers.values()]) if numbers else np.empty((len(items), 0), dtype=np.int64)
    return blocks, HardRules(rules, together, families)


def _place(items: pd.DataFrame, name: str) -> str | None:
    """Where the items have a column; None when they lack it. Without items any place will do."""
    places = ("facts", "attributes")
    return next((place for place in places if items.empty or name in json.loads(items[place].iloc[0])), None)


def _block(block: Sequence[BlockColumn], numbers: Mapping[str, Numbers], cells: Mapping[str, pd.Series]) -> Block:
    equal = np.column_stack([numbers[column.column] for column in block if column.band is None])
    keys, complete = row_numbers(equal), (equal != EMPTY).all(axis=1)
    name = " + ".join(column.column for column in block)
    banded = next((column for column in block if column.band is not None), None)
    if banded is None or banded.band is None:
        return Block(name, np.where(complete, keys, -1))
    written = (json.loads(text).get(banded.column) for text in cells[banded.column])
    level = np.fromiter(map(_logarithm, written), dtype=np.float64, count=len(keys))
    known, told = np.isfinite(level), numbers[banded.column] != EMPTY
    width, unread = float(np.log1p(banded.band)), int((complete & told & ~known).sum())
    return Block(name, np.where(complete & known, keys, -1), level, width, unread)


def _logarithm(cell: str | None) -> float:
    """Of a positive number, written with a decimal point; NaN for anything else."""
    try:
        number = float((cell or "").strip())
    except ValueError:
        return float("nan")
    return float(np.log(number)) if 0 < number < np.inf else float("nan")

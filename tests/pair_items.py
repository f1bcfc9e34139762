"""Items for tests of pairs, made from rows of a table the way `ingest` makes them, without any picture."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mlim.catalog.defaults import describe_embedded
from mlim.catalog.description import CatalogDescription
from mlim.embedded.generate import plan_items
from mlim.ingest.screen import screen_rows
from mlim.sources.base import RawRow

NO_LIMIT = 1_000_000
COLUMNS = ["id", "family", "text", "attributes", "facts"]


def described(pairs: Mapping[str, Any], columns: Mapping[str, Any]) -> CatalogDescription:
    """A catalog with these columns and this `pairs` section."""
    values = {"source": "table", "table": "t.csv", "images": ".", "columns": columns, "pairs": pairs}
    return CatalogDescription.model_validate(values)


def items_of(description: CatalogDescription, rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """One item for each row; each has a picture of its own, with a hash that looks like chance."""
    raw = (RawRow("t.csv", number, row) for number, row in enumerate(rows, start=1))
    found = [{name: getattr(row, name) for name in COLUMNS} for row in screen_rows(raw, description, NO_LIMIT)]
    items = pd.DataFrame(found).astype({"family": "str"})
    items.loc[[row["family"] is None for row in found], "family"] = None
    digests = [hashlib.sha256(item.encode()).hexdigest() for item in items["id"]]
    return items.assign(image_sha256=digests, image_hash=[digest[:16] for digest in digests])


def embedded(pairs: Mapping[str, Any], count: int, seed: int = 0) -> tuple[CatalogDescription, pd.DataFrame]:
    """The embedded catalog with this `pairs` section, and `count` of its items, none of them drawn."""
    description = described(pairs, describe_embedded()["columns"])
    return description, items_of(description, [item.row for item in plan_items(count, seed)])

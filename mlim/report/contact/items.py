"""The few items that are shown: read whole from their shards, nothing else of them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlim.errors import InputError
from mlim.report.contact.measures import INDEX_FILE
from mlim.shards.shard import read_shard
from mlim.workspace import Workspace

Place = tuple[str, int]


@dataclass(frozen=True)
class ShownItem:
    """One item as the work folder holds it; `facts` decide pairs and are hidden from the model."""

    id: str
    family: str | None
    category: str | None
    text: str
    facts: Mapping[str, str]
    image: bytes
    width: int
    height: int


def read_places(folder: Path, places: Iterable[Place]) -> dict[Place, ShownItem]:
    """The items at (shard, position); `InputError` when a shard lacks one, because validation is older than it."""
    by_shard: dict[str, list[int]] = defaultdict(list)
    for shard, position in dict.fromkeys(places):
        by_shard[shard].append(position)
    found: dict[Place, ShownItem] = {}
    for shard, positions in by_shard.items():
        table = read_shard(folder / shard)
        if max(positions) >= len(table):
            raise stale(folder)
        records = table.take(positions).to_pylist()
        found |= {(shard, place): _shown(record) for place, record in zip(positions, records, strict=True)}
    return found


def find_items(workspace: Workspace, ids: Iterable[str]) -> dict[str, ShownItem]:
    """Accepted items by id; those that are not there are left out. `InputError` when validation is older."""
    wanted = sorted(set(ids))
    index = workspace.valid / INDEX_FILE
    if not wanted or not index.is_file():
        return {}
    rows = pq.read_table(index, columns=["id", "shard", "position"], filters=pc.field("id").isin(wanted)).to_pylist()
    found = read_places(workspace.items, [(row["shard"], row["position"]) for row in rows])
    for row in rows:
        if found[row["shard"], row["position"]].id != row["id"]:
            raise stale(workspace.items)
    return {item.id: item for item in found.values()}


def stale(folder: Path) -> InputError:
    """What to say when the accepted items are not those of the shards."""
    return InputError(f"{folder} is newer than what `mlim validate` accepted; run `mlim validate` again")


def _shown(record: Mapping[str, Any]) -> ShownItem:
    facts = json.loads(record["facts"])
    return ShownItem(
        id=record["id"],
        family=record["family"],
        category=record["category"],
        text=record["text"],
        facts={str(name): str(value) for name, value in facts.items()},
        image=record["image"],
        width=record["image_width"],
        height=record["image_height"],
    )

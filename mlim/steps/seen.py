"""Which items a registered version has learned from: kept with the run that registered it.

Training items are learned from, validation items choose the step, the threshold and the calibration, and test items
only judge. Family and picture of each item are kept too: an item under another id that shares one of them with an item
of the record is known as well. Versions registered by an earlier mlim have no such record, or one of ids alone.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pandas as pd

from mlim.files import read_json, write_json
from mlim.pairs.labels import TEST
from mlim.recipe import TrackingConfig
from mlim.registry import RUN_OF_REGISTRATION, Registry
from mlim.tracking import fetch_artifact
from mlim.workspace import Workspace

LINEAGE: Final = "lineage"  # a folder of the run
ITEMS: Final = "items.parquet"  # id, split, family, image_sha256
KEYS: Final = ("id", "family", "image_sha256")  # an item that shares one of them was seen
RECORD: Final = "lineage.json"


def write_record(workspace: Workspace, folder: Path, record: Mapping[str, object]) -> Path:
    """Write the items of a work folder with their splits, and `record`, into `folder`/lineage; gives that folder."""
    place = folder / LINEAGE
    place.mkdir()
    members = pd.read_parquet(workspace.pairs / "items.parquet", columns=["id", "split"])
    known = pd.read_parquet(workspace.valid / "index.parquet", columns=list(KEYS))
    members.merge(known, on="id", how="left").sort_values("id", ignore_index=True).to_parquet(place / ITEMS)
    write_json(place / RECORD, record)
    return place


def items_of(tracking: TrackingConfig, registry: Registry, version: str) -> pd.DataFrame | None:
    """The items of the work folder that a version was trained in: id, split and, in newer records, family and picture.

    None where nothing was recorded.
    """
    run = registry.tags(version).get(RUN_OF_REGISTRATION)
    if run is None:
        return None
    with TemporaryDirectory() as temporary:
        path = fetch_artifact(tracking, run, f"{LINEAGE}/{ITEMS}", Path(temporary))
        return None if path is None else pd.read_parquet(path)


def record_of(tracking: TrackingConfig, registry: Registry, version: str) -> dict[str, Any] | None:
    """What else registration wrote down about a version; None where nothing was recorded."""
    run = registry.tags(version).get(RUN_OF_REGISTRATION)
    if run is None:
        return None
    with TemporaryDirectory() as temporary:
        path = fetch_artifact(tracking, run, f"{LINEAGE}/{RECORD}", Path(temporary))
        return None if path is None else dict(read_json(path))


def learned_from(items: pd.DataFrame) -> dict[str, frozenset[str]]:
    """What the items that changed the model have (all but those of the test split), by key: ids, families, pictures."""
    learned = items[items["split"] != TEST]
    return {key: frozenset(learned[key].dropna()) for key in KEYS if key in learned}

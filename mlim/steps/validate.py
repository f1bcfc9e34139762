"""`mlim validate`: check the ingested items with Great Expectations and set the bad ones aside."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mlim.catalog.description import CatalogDescription, load_description
from mlim.catalog.images import encode_thumbnail
from mlim.catalog.item import ITEM_SCHEMA
from mlim.catalog.quarantine import QUARANTINE_FILE, Quarantined, describe_reasons, write_quarantine
from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.files import atomic_folder, read_json, sha256_of, write_json
from mlim.recipe import Recipe
from mlim.validation import Finding, Validation, picture_place
from mlim.workspace import Workspace

SHOWN_CHARACTERS = 80
INDEX_COLUMNS = ("id", "family", "text", "attributes", "facts", "image_sha256", "image_width", "image_height")
INDEX_SCHEMA: Any = pa.schema(
    [
        *(ITEM_SCHEMA.field(name) for name in INDEX_COLUMNS),
        pa.field("shard", pa.string()),
        pa.field("position", pa.int64()),
    ]
)


def validate(recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Write index.parquet of the accepted items, quarantine.parquet, data_docs/ and summary.json; return the summary.

    `DataError` when an expectation of the whole table fails or too many items are refused; then everything but the
    index is written, so that the pages tell why and no later step takes the items.
    """
    description = load_description(catalog)
    items = read_items(workspace.items)
    terminal.say(f"checking {len(items)} items with Great Expectations ...")
    with atomic_folder(workspace.valid) as folder:
        validation = Validation(folder / "data_docs")
        parameters = _parameters(recipe, workspace)
        findings = [finding for suite in _suites(description) for finding in validation.check(suite, items, parameters)]
        refused = _refuse(validation, findings, items, parameters)
        validation.write_docs()
        quarantined = write_quarantine(folder / QUARANTINE_FILE, _set_aside(workspace.items, items, refused))
        complaints = _complaints(recipe, findings, len(items), quarantined)
        if not complaints:
            _write_index(items.drop(index=list(refused)), folder / "index.parquet")
        summary = {
            "checked": len(items),
            "accepted": 0 if complaints else len(items) - len(refused),
            "quarantined": quarantined,
            "expectations": [finding.summary() for finding in findings],
            "success": not complaints,
        }
        write_json(folder / "summary.json", summary)
    if complaints:
        raise DataError("\n".join([*complaints, f"see {workspace.valid / 'data_docs' / 'index.html'}"]))
    aside = f"; set aside: {describe_reasons(quarantined)}" if quarantined else ""
    terminal.say(f"{summary['accepted']} of {len(items)} items accepted{aside}")
    return summary


def read_items(folder: Path) -> pd.DataFrame:
    """All ingested items without their pictures, with shard, position and the picture's place.

    `InputError` when the shards are not those of the manifest, `DataError` when there are none.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise InputError(f"{manifest} is missing; run `mlim ingest` first")
    entries = read_json(manifest)
    changed = [entry["file"] for entry in entries if not _is_intact(folder / entry["file"], entry["sha256"])]
    if changed:
        raise InputError(f"{folder}: {', '.join(changed)} changed since it was written; run `mlim ingest` again")
    if not entries:
        raise DataError(f"{folder} holds no items; its {QUARANTINE_FILE} says why each row was set aside")
    return pd.concat([_read_shard(folder, entry["file"]) for entry in entries], ignore_index=True)


def _read_shard(folder: Path, name: str) -> pd.DataFrame:
    columns = [column for column in ITEM_SCHEMA.names if column != "image"]
    shard: pd.DataFrame = pq.read_table(folder / name, columns=columns).to_pandas()
    places = pd.Series([picture_place(name, position) for position in range(len(shard))], dtype="str")
    return shard.assign(shard=name, position=np.arange(len(shard)), picture=places)


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _suites(description: CatalogDescription) -> Sequence[str]:
    return ("items",) if description.columns.family is None else ("items", "families")


def _parameters(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    return {
        "max_text_characters": recipe.validation.max_text_characters,
        "min_image_side": recipe.validation.min_image_side,
        "image_size": recipe.image.size,
        "folder": str(workspace.items),
    }


def _refuse(
    validation: Validation, findings: Sequence[Finding], items: pd.DataFrame, parameters: dict[str, Any]
) -> dict[int, Finding]:
    """The refused rows by position in order, each with the first expectation that refuses it."""
    refused: dict[int, Finding] = {}
    for finding in findings:
        if finding.row_level and not finding.success:
            for row in validation.failing_rows(finding, items, parameters):
                refused.setdefault(row, finding)
    return dict(sorted(refused.items()))


def _set_aside(folder: Path, items: pd.DataFrame, refused: dict[int, Finding]) -> Iterator[Quarantined]:
    """The refused rows with a small picture each; one shard in memory at a time."""
    for shard, rows in items.loc[list(refused)].groupby("shard"):
        pictures = pq.read_table(folder / str(shard), columns=["image"])["image"]
        for place, item in zip(rows.index.tolist(), rows.to_dict("records"), strict=True):
            yield Quarantined(
                row=item["row"],
                id=item["id"],
                stage="validate",
                reason=refused[place].expectation,
                detail=_detail(refused[place], item),
                thumbnail=_thumbnail(pictures[item["position"]].as_py(), item["image_width"], item["image_height"]),
            )


def _detail(finding: Finding, item: dict[Any, Any]) -> str:
    found = json.dumps(item.get(finding.column), ensure_ascii=False, default=str)
    shown = found if len(found) <= SHOWN_CHARACTERS else f"{found[:SHOWN_CHARACTERS]}... ({len(found)} characters)"
    return f"{finding.problem} ({finding.column}: {shown}); {finding.advice}"


def _thumbnail(data: bytes, width: int, height: int) -> bytes | None:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            return encode_thumbnail(picture, max(width, 1), max(height, 1))
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for broken bytes
        return None


def _complaints(recipe: Recipe, findings: Sequence[Finding], checked: int, quarantined: dict[str, int]) -> list[str]:
    complaints = [finding.complaint() for finding in findings if not finding.row_level and not finding.success]
    refused, limit = sum(quarantined.values()), recipe.validation.max_quarantined_share
    if checked and (refused > limit * checked or refused == checked):
        complaints.append(
            f"{refused} of {checked} items were refused ({describe_reasons(quarantined)}), more than "
            f"validation.max_quarantined_share {limit:g} allows; correct the catalog or raise the limit"
        )
    return complaints


def _write_index(items: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(items, schema=INDEX_SCHEMA, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), path)

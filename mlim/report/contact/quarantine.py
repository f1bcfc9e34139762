"""Rows that were quarantined, by reason, with examples; their thumbnails are read for the examples only."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mlim.catalog.quarantine import QUARANTINE_FILE
from mlim.report.contact.settings import ContactSettings
from mlim.workspace import Workspace

KEY = ("stage", "reason")


@dataclass(frozen=True)
class QuarantinedRow:
    """One row that was quarantined, as `QUARANTINE_SCHEMA` holds it."""

    source: str
    row: int
    id: str
    detail: str
    thumbnail: bytes | None


@dataclass(frozen=True)
class Reason:
    """Why rows were quarantined, how many, and some of them in the order of the source."""

    stage: str
    reason: str
    count: int
    examples: tuple[QuarantinedRow, ...]


def quarantine_files(workspace: Workspace, with_validation: bool) -> list[Path]:
    """The quarantines of a work folder: the one of a refused ingest stands for the others, which are older."""
    refused = refused_folder(workspace) / QUARANTINE_FILE
    folders = [workspace.items, workspace.valid] if with_validation else [workspace.items]
    files = [refused] if refused.is_file() else [folder / QUARANTINE_FILE for folder in folders]
    return [path for path in files if path.is_file()]


def refused_folder(workspace: Workspace) -> Path:
    """Where `ingest` keeps what it knows of a catalog that it refused."""
    return workspace.items.with_name(f"{workspace.items.name}.refused")


def read_reasons(quarantines: Sequence[Path], settings: ContactSettings) -> tuple[Reason, ...]:
    """The reasons, most frequent first; examples (drawn with the seed) for the first `settings.reasons` of them."""
    found = [reason for path in quarantines for reason in _reasons(path, settings)]
    ordered = sorted(found, key=lambda each: (-each.count, each.stage, each.reason))
    shown = settings.reasons
    return (*ordered[:shown], *(Reason(one.stage, one.reason, one.count, ()) for one in ordered[shown:]))


def count_sources(quarantines: Sequence[Path]) -> dict[str, int]:
    """Quarantined rows by source file."""
    counts = Counter[str]()
    for path in quarantines:
        counts.update(pq.read_table(path, columns=["source"])["source"].to_pylist())
    return dict(counts)


def _reasons(path: Path, settings: ContactSettings) -> Iterator[Reason]:
    """Reasons of one file; the first pass reads no thumbnails, the second only row groups with a chosen row."""
    places: dict[tuple[str, str], list[int]] = {}
    keys = pq.read_table(path, columns=list(KEY)).to_pydict()
    for place, key in enumerate(zip(*(keys[name] for name in KEY), strict=True)):
        places.setdefault(key, []).append(place)
    generator = np.random.default_rng(settings.seed)
    drawn = {key: _draw(places[key], settings.rows_per_reason, generator) for key in sorted(places)}
    rows = _rows_at(path, sorted(place for chosen in drawn.values() for place in chosen))
    for (stage, reason), chosen in drawn.items():
        examples = tuple(_quarantined(rows[place]) for place in chosen)
        yield Reason(stage, reason, len(places[stage, reason]), examples)


def _draw(places: list[int], count: int, generator: np.random.Generator) -> list[int]:
    if len(places) <= count:
        return places
    return sorted(int(place) for place in generator.choice(places, count, replace=False))


def _rows_at(path: Path, places: list[int]) -> dict[int, dict[str, Any]]:
    file = pq.ParquetFile(path)
    found: dict[int, dict[str, Any]] = {}
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = [place for place in places if start <= place < end]
        if inside:
            rows = file.read_row_group(group).take([place - start for place in inside]).to_pylist()
            found |= dict(zip(inside, rows, strict=True))
        start = end
    return found


def _quarantined(row: dict[str, Any]) -> QuarantinedRow:
    return QuarantinedRow(row["source"], row["row"], row["id"], row["detail"], row["thumbnail"])

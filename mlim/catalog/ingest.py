"""A described source -> shards, ledger and quarantine; every row ends as an item or set aside, with a reason.

One lazy plan: rows are read as a stream, cut into chunks, and each chunk becomes one shard wherever the engine runs
it. What comes back is put in order here; nothing grows with the catalog but a digest of each id.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mlim.catalog.build import ITEMS_FILE, REFUSED_FILE, ShardPlan, ShardRecord, build_shard, forget_others
from mlim.catalog.chunks import cut_chunks
from mlim.catalog.description import CatalogDescription
from mlim.catalog.engine import open_engine
from mlim.catalog.images import ImageRules
from mlim.catalog.item import LEDGER_SCHEMA, QUARANTINE_SCHEMA
from mlim.catalog.ledger import LEDGER_FILE
from mlim.catalog.quarantine import QUARANTINE_FILE, Quarantined, QuarantineWriter, describe_reasons
from mlim.catalog.rows import RowWriter
from mlim.catalog.sandbox import DecodeLimits
from mlim.catalog.screen import SourceRow, screen_rows
from mlim.catalog.shards import ShardEntry, shard_name, write_manifest
from mlim.catalog.sources.base import Source
from mlim.config import nearest
from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.processes import cores
from mlim.recipe import Recipe

FEWEST_FAMILIES = 2


def check_source(source: Source, description: CatalogDescription, where: str) -> None:
    """`InputError` led by `where` when the source lacks a column that the description names."""
    known = source.columns()
    problems = [
        f"{where}: the source has no column `{name}`{nearest(name, known)}"
        for name in description.needed_columns
        if name not in known
    ]
    if problems:
        raise InputError(*problems)


def read_rows(source: Source, description: CatalogDescription, recipe: Recipe, where: str) -> Iterator[SourceRow]:
    """All rows, screened.

    After the last one `InputError` when there was none, when the source changed meanwhile or has too few families.
    """
    before, families, row = source.state(), set[str](), None
    raw = source.rows(description.needed_columns)
    for row in screen_rows(raw, description, recipe.ingest.max_cell_characters):
        if row.family and len(families) < FEWEST_FAMILIES:
            families.add(row.family)
        yield row
    if row is None:
        raise InputError(f"{where}: the source has no rows; it needs at least one")
    if source.state() != before:
        raise InputError(f"{where}: the source changed while it was read; run `mlim ingest` again when it is complete")
    if description.columns.family is not None and len(families) < FEWEST_FAMILIES:
        _refuse_families(description.columns.family, len(families), where)


def _refuse_families(column: str, count: int, where: str) -> None:
    held = "holds only one family" if count else "is empty in every row"
    raise InputError(
        f"{where}: the family column `{column}` {held}; train and test need different families: "
        "name the column whose value is shared by the variations of one product"
    )


def ingest_items(
    rows: Iterable[SourceRow], source: Source, recipe: Recipe, folder: Path, cache: Path, terminal: Terminal
) -> dict[str, Any]:
    """Write shards, manifest, ledger and quarantine of all rows into `folder`; returns the counts and the data version.

    Finished shards are kept in `cache`. The bytes depend on the rows, the pictures and the recipe only, never on where
    or how often the work was done.
    """
    settings, store, rules = recipe.ingest, source.pictures(), image_rules(recipe)
    limits = DecodeLimits(settings.decode_seconds, settings.decode_memory_mb)
    deciding = {**vars(rules), "limits": [settings.max_picture_mb, vars(limits)]}
    plans = (ShardPlan.of(chunk, store, deciding, cache) for chunk in cut_chunks(rows, settings.rows_per_shard))
    with (
        open_engine(settings.cluster, settings.workers or cores(), limits, store, rules) as engine,
        _open_results(folder) as results,
        terminal.progress("ingest", total=None) as bar,
    ):
        for plan, record in engine.run(build_shard, plans):
            results.add(plan, record)
            bar.advance(len(plan.rows))
    forget_others(cache, results.keys)
    return check_counts(results.finish())


def image_rules(recipe: Recipe) -> ImageRules:
    """What the recipe allows and wants of pictures."""
    return ImageRules(
        formats=recipe.ingest.formats,
        max_megapixels=recipe.ingest.max_megapixels,
        size=recipe.image.size,
        quality=recipe.image.jpeg_quality,
    )


@contextlib.contextmanager
def _open_results(folder: Path) -> Iterator["_Results"]:
    with (
        RowWriter(folder / LEDGER_FILE, LEDGER_SCHEMA) as ledger,
        RowWriter(folder / QUARANTINE_FILE, QUARANTINE_SCHEMA) as quarantine,
    ):
        yield _Results(folder, ledger, QuarantineWriter(quarantine))


@dataclass
class _Results:
    """What is written as shards come back, in the order of the source."""

    folder: Path
    ledger: RowWriter
    quarantine: QuarantineWriter
    entries: list[ShardEntry] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def add(self, plan: ShardPlan, record: ShardRecord) -> None:
        """Take over one finished shard."""
        self.keys.add(plan.key)
        name = shard_name(len(self.entries))
        if record.items:
            _link(plan.folder / ITEMS_FILE, self.folder / name)
            self.entries.append(ShardEntry(name, record.items, record.bytes, record.sha256))
        self._add_lines(plan.rows, record.reasons, name)
        for refused in pq.read_table(plan.folder / REFUSED_FILE).to_pylist():
            row = plan.rows[refused.pop("position")]
            self.quarantine.add(Quarantined(source=row.source, row=row.row, id=row.id, stage="ingest", **refused))

    def _add_lines(self, rows: Sequence[SourceRow], reasons: Sequence[str | None], shard: str) -> None:
        position = 0
        for row, reason in zip(rows, reasons, strict=True):
            place = (shard, position) if reason is None else (None, None)
            line = {"source": row.source, "row": row.row, "id": row.id, "reason": reason}
            self.ledger.add({**line, "shard": place[0], "position": place[1]})
            position += reason is None

    def finish(self) -> dict[str, Any]:
        """Write the manifest; the counts of this run."""
        return {
            "rows_in": self.ledger.rows,
            "ingested": sum(entry.items for entry in self.entries),
            "quarantined": self.quarantine.counts,
            "data_version": write_manifest(self.folder, self.entries),
        }


def _link(shard: Path, target: Path) -> None:
    """The same file under a second name where the file system can, else a copy; shards are never written to."""
    try:
        os.link(shard, target)
    except OSError:
        shutil.copyfile(shard, target)


def check_counts(counts: dict[str, Any]) -> dict[str, Any]:
    """The counts themselves when every row is accounted for; `MlimError` otherwise (a fault of this program)."""
    bad = sum(counts["quarantined"].values())
    if counts["rows_in"] != counts["ingested"] + bad:
        raise MlimError(
            f"{counts['rows_in']} rows came in but {counts['ingested']} were ingested and {bad} quarantined; "
            "nothing was written: please report this"
        )
    return counts


def check_share(counts: Mapping[str, Any], limit: float, kept: Path) -> None:
    """`DataError` when no row is good or more than `limit` of them are bad; `kept` is the quarantine to look into."""
    bad, total = sum(counts["quarantined"].values()), counts["rows_in"]
    if counts["ingested"] and bad <= limit * total:
        return
    raise DataError(
        f"{bad} of {total} rows ({bad / max(total, 1):.1%}) were quarantined, more than ingest.max_quarantined_share "
        f"({limit:.1%}): {describe_reasons(counts['quarantined'])}; every row and its reason is in {kept}. "
        "Mend the source, or raise the limit with --set ingest.max_quarantined_share=SHARE"
    )

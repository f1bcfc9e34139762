"""A described source -> shards, row log and quarantine; every row ends as an item or quarantined, with a reason.

One lazy plan: rows are read as a stream, cut into chunks, and each chunk becomes one shard wherever the engine runs
it. What comes back is put in order here; nothing grows with the catalog but a digest of each id and the name of each
family. Rows are judged before families: where too many are rejected, their reasons are what a person should look at.
A source that cannot be read to its end fails after its rows, so that what was rejected of them is kept.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mlim.catalog.description import CatalogDescription
from mlim.catalog.item import QUARANTINE_SCHEMA, ROW_LOG_SCHEMA
from mlim.catalog.quarantine import QUARANTINE_FILE, Quarantined, QuarantineWriter, describe_reasons, first_rejected
from mlim.catalog.row_log import LINES_PER_GROUP, ROW_LOG_FILE
from mlim.catalog.row_writer import RowWriter
from mlim.catalog.values import WordCounts
from mlim.config import nearest
from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.files import link_or_copy
from mlim.ingest.build import ITEMS_FILE, REJECTED_FILE, ShardPlan, ShardRecord, build_shard, forget_others
from mlim.ingest.chunks import cut_chunks
from mlim.ingest.engine import Engine
from mlim.ingest.picture_counts import PictureCounts
from mlim.ingest.screen import SourceRow, screen_rows
from mlim.ingest.threads import open_threads
from mlim.pictures.base import PictureStore
from mlim.pictures.decoding import ImageRules
from mlim.pictures.sandbox import DecodeLimits
from mlim.processes import cores, processes_for
from mlim.recipe.data import ImageConfig, IngestConfig
from mlim.shards.shard import ShardEntry, shard_name, write_manifest
from mlim.sources.base import Source

FEWEST_FAMILIES = 2
UNUSABLE_FILE = "unusable_pictures.parquet"


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


@dataclass
class ScreenedRows:
    """All rows of a source, screened as they are read, and what was seen of them; `where` leads its errors."""

    source: Source
    description: CatalogDescription
    max_cell_characters: int
    where: str
    count: int = 0
    rejected: int = 0  # by their cells alone
    families: set[str] = field(default_factory=set)  # of rows that were not rejected; no more than must be there
    words: WordCounts = field(default_factory=WordCounts)  # that mean no value, as for `screen_rows`
    failure: MlimError | None = None  # why the rows are not all of the source
    pictures: PictureCounts = field(default_factory=PictureCounts)

    def __iter__(self) -> Iterator[SourceRow]:
        """The rows as far as the source can be read; `check_whole` says whether they are all of it."""
        before = self.source.state()
        raw = self.source.rows(self.description.needed_columns)
        try:
            for row in screen_rows(raw, self.description, self.max_cell_characters, self.words):
                self._note(row)
                yield row
        except MlimError as error:
            self.failure = error
            return
        if not self.count:
            self.failure = InputError(f"{self.where}: the source has no rows; it needs at least one")
        elif self.source.state() != before:
            problem = "the source changed while it was read; run `mlim ingest` again when it is complete"
            self.failure = InputError(f"{self.where}: {problem}")

    def check_whole(self) -> None:
        """The error that ended the rows too early, or says that there was none or the source changed meanwhile."""
        if self.failure is not None:
            raise self.failure

    def check_families(self) -> None:
        """`InputError` when the rows that were read have too few families for a train and a test part."""
        column = self.description.columns.family
        if column is None or len(self.families) >= FEWEST_FAMILIES:
            return
        held = "holds only one family" if self.families else "is empty in every row"
        rows = f"{held}, in the {self.count - self.rejected} rows that are not rejected" if self.rejected else held
        raise InputError(
            f"{self.where}: the family column `{column}` {rows}; train and test need different families: "
            "name the column whose value is shared by the variations of one product"
        )

    def _note(self, row: SourceRow) -> None:
        self.count += 1
        self.pictures.add(row.listed, self.description.columns.image)
        if row.rejection is not None:
            self.rejected += 1
        elif row.family and len(self.families) < FEWEST_FAMILIES:
            self.families.add(row.family)


def ingest_items(
    rows: ScreenedRows, image: ImageConfig, settings: IngestConfig, folder: Path, cache: Path, terminal: Terminal
) -> dict[str, Any]:
    """Write shards, manifest, row log and quarantine of all rows into `folder`; returns counts and data version.

    Finished shards are kept in `cache`. The bytes depend on the rows, the pictures and the recipe only, never on where
    or how often the work was done.
    """
    store, rules = rows.source.pictures(), image_rules(image, settings)
    limits = DecodeLimits(settings.decode_seconds, settings.decode_memory_mb)
    deciding = {**vars(rules), "limits": [settings.max_picture_mb, vars(limits)]}
    every_picture = rows.description.columns.image.choose == "all"
    chunks = cut_chunks(rows, settings.rows_per_shard)
    plans = (ShardPlan.of(chunk, store, deciding, cache, every_picture) for chunk in chunks)
    with (
        _open_engine(settings.cluster, decoders(settings), limits, store, rules) as engine,
        _open_results(folder, every_picture) as results,
        terminal.progress("ingest", total=None) as bar,
    ):
        for plan, record in engine.run(build_shard, plans):
            results.add(plan, record)
            bar.advance(len(plan.rows))
    if rows.failure is None:
        forget_others(cache, results.keys)
    counts = check_counts(results.finish(rows.count))
    return {**counts, "pictures": rows.pictures.summary(results.unusable.counts if results.unusable else {})}


def _open_engine(
    address: str | None, processes: int, limits: DecodeLimits, store: PictureStore, rules: ImageRules
) -> contextlib.AbstractContextManager[Engine]:
    """The Dask cluster at `address` with all it has; without one this machine, with so many decoding processes."""
    if address is None:
        return open_threads(processes, limits, store, rules)
    from mlim.ingest.cluster import open_cluster  # only where there is one: Dask takes its time to load

    return open_cluster(address, limits, store, rules)


def decoders(settings: IngestConfig) -> int:
    """How many processes decode on this machine; `InputError` for more than its cores can use."""
    on_a_cluster = settings.cluster is not None  # its workers decide
    return cores() if on_a_cluster else processes_for(settings.workers, "ingest.workers")


def image_rules(image: ImageConfig, settings: IngestConfig) -> ImageRules:
    """What the recipe allows and wants of pictures."""
    return ImageRules(
        formats=settings.formats,
        max_megapixels=settings.max_megapixels,
        size=image.size,
        quality=image.jpeg_quality,
    )


@contextlib.contextmanager
def _open_results(folder: Path, every_picture: bool) -> Iterator["_Results"]:
    with contextlib.ExitStack() as stack:
        row_log = stack.enter_context(RowWriter(folder / ROW_LOG_FILE, ROW_LOG_SCHEMA, LINES_PER_GROUP))
        quarantine = stack.enter_context(RowWriter(folder / QUARANTINE_FILE, QUARANTINE_SCHEMA))
        results = _Results(folder, row_log, QuarantineWriter(quarantine))
        if every_picture:
            unusable = stack.enter_context(RowWriter(folder / UNUSABLE_FILE, QUARANTINE_SCHEMA))
            results.unusable = QuarantineWriter(unusable)
        yield results


@dataclass
class _Results:
    """What is written as shards come back, in the order of the source."""

    folder: Path
    row_log: RowWriter
    quarantine: QuarantineWriter
    unusable: QuarantineWriter | None = None  # pictures that cost no item, where a row may list several
    entries: list[ShardEntry] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def add(self, plan: ShardPlan, record: ShardRecord) -> None:
        """Take over one finished shard."""
        self.keys.add(plan.key)
        name = shard_name(len(self.entries))
        if record.items:
            link_or_copy(plan.folder / ITEMS_FILE, self.folder / name)
            self.entries.append(ShardEntry(name, record.items, record.bytes, record.sha256))
        self._add_lines(plan.rows, record.reasons, name)
        refused = pq.read_table(plan.folder / REJECTED_FILE).to_pylist() if any(record.reasons) else ()
        for rejected in refused:
            row = plan.rows[rejected.pop("position")]
            self.quarantine.add(Quarantined(source=row.source, row=row.row, id=row.id, stage="ingest", **rejected))
        if self.unusable is not None:
            for picture in record.unusable:
                row, why = plan.rows[picture["position"]], {name: picture[name] for name in ("reason", "detail")}
                self.unusable.add(Quarantined(source=row.source, row=row.row, id=row.id, stage="ingest", **why))

    def _add_lines(self, rows: Sequence[SourceRow], reasons: Sequence[str | None], shard: str) -> None:
        position = 0
        for row, reason in zip(rows, reasons, strict=True):
            place = (shard, position) if reason is None else (None, None)
            line = {"source": row.source, "row": row.row, "id": row.id, "reason": reason}
            self.row_log.add({**line, "shard": place[0], "position": place[1]})
            position += reason is None

    def finish(self, rows: int) -> dict[str, Any]:
        """Write the manifest; the counts of this run, in which so many rows came from the source."""
        return {
            "rows_in": rows,
            "ingested": sum(entry.items for entry in self.entries),
            "quarantined": self.quarantine.counts,
            "data_version": write_manifest(self.folder, self.entries),
        }


def check_counts(counts: dict[str, Any]) -> dict[str, Any]:
    """The counts themselves when every row is accounted for; `MlimError` otherwise (a fault of this program)."""
    bad = sum(counts["quarantined"].values())
    if counts["rows_in"] != counts["ingested"] + bad:
        raise MlimError(
            f"{counts['rows_in']} rows came in but {counts['ingested']} were ingested and {bad} quarantined; "
            "nothing was written: please report this"
        )
    return counts


def too_many(rejected: int, rows: int, limit: float) -> bool:
    """Whether no row is good, or more than the share `limit` of them are rejected."""
    return rejected == rows or rejected > limit * rows


def check_share(counts: Mapping[str, Any], limit: float, folder: Path, kept: Path) -> None:
    """`DataError` when too many rows of the items in `folder` were rejected, with the first ones of each reason.

    `kept` is where a person finds the quarantine afterwards.
    """
    bad, total = sum(counts["quarantined"].values()), counts["rows_in"]
    if not too_many(bad, total, limit):
        return
    setting = "ingest.max_quarantined_share"
    none_left = bad == total  # which no limit lets through
    allowed = f"no row is left, whatever {setting} allows" if none_left else f"more than {setting} ({limit:.1%})"
    problem = (
        f"{bad} of {total} rows ({bad / max(total, 1):.1%}) were quarantined, {allowed}: "
        f"{describe_reasons(counts['quarantined'])}; every row and its reason is in {kept}. "
        f"Mend the source{'' if none_left else f', or raise the limit with --set {setting}=SHARE'}"
    )
    raise DataError("\n".join((problem, *first_rejected(folder / QUARANTINE_FILE))))

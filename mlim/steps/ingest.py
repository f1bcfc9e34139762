"""Step `ingest`: a described catalog -> items/ (shards, manifest, row log, quarantine, summary)."""

import shutil
from pathlib import Path
from typing import Any

from mlim.catalog.description import CatalogDescription, check_pair_rules, load_description
from mlim.catalog.quarantine import QUARANTINE_FILE, first_rejected
from mlim.catalog.values import count_words, warn_of_words
from mlim.console import Terminal
from mlim.errors import MlimError
from mlim.files import atomic_folder, remove_folder, write_json
from mlim.ingest.freshness import READ_FILES, read_files
from mlim.ingest.picture_counts import describe_pictures
from mlim.ingest.run import (
    UNUSABLE_FILE,
    ScreenedRows,
    check_share,
    check_source,
    decoders,
    ingest_items,
    too_many,
)
from mlim.recipe import Recipe
from mlim.sources.base import Source
from mlim.sources.opening import open_source
from mlim.workspace import Workspace
from mlim.writer import claim_work, only_writer

SUMMARY_FILE = "summary.json"
BYTES_PER_MB = 1_000_000


def ingest(
    recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal, for_pairs: bool = True
) -> dict[str, Any]:
    """Read the catalog described by the file `catalog` into workspace.items; returns the counts of its rows.

    `InputError` when description or source are wrong, `DataError` when too many rows are bad: the last good items stay.
    Where rows were read, also of a source that cannot be read to its end, the quarantine lies beside them in
    items.refused. A run that was killed is continued by the next one.
    """
    given = load_description(catalog)
    description = _drawn(given, recipe, workspace, terminal)
    source = _open(description, recipe, str(catalog), workspace)
    rows = ScreenedRows(source, description, recipe.ingest.max_cell_characters, str(catalog))
    refused = workspace.items.with_name(f"{workspace.items.name}.refused")
    with only_writer(workspace, recipe.record, "mlim ingest"), atomic_folder(workspace.items) as folder:
        counts = ingest_items(rows, recipe.image, recipe.ingest, folder, workspace.shards.absolute(), terminal)
        found = {"source": dict(source.report()), "missing_words": count_words(rows.words)}
        cleaned = all(text.clean for text in description.columns.text)
        labels = {text.column: text.label for text in description.columns.text if text.label}
        read: dict[str, Any] = {"catalog": str(catalog), "clean_texts": cleaned, "field_labels": labels}
        read[READ_FILES] = read_files(given, catalog)
        summary: dict[str, Any] = {**counts, **read, **found}
        write_json(folder / SUMMARY_FILE, summary)
        for warning in warn_of_words(summary["missing_words"]):
            terminal.warn(warning)
        try:
            rows.check_whole()
            check_share(summary, recipe.ingest.max_quarantined_share, folder, refused / QUARANTINE_FILE)
            if for_pairs:
                rows.check_families()
        except MlimError:
            if rows.count:
                _keep(folder, refused)
            if rows.failure is not None:
                _say_rejected(folder, refused, terminal)
            raise
    remove_folder(refused)
    notes = [f"{name}: {count}" for name, count in source.report().items()]
    notes += describe_pictures(summary["pictures"], description.columns.image)
    rejections = [workspace.items / name for name in (UNUSABLE_FILE, QUARANTINE_FILE)]
    for line in (*notes, *(line for path in rejections if path.is_file() for line in first_rejected(path))):
        terminal.say(line)
    return summary


def check_catalog(recipe: Recipe, catalog: Path, workspace: Workspace) -> None:
    """`InputError` listing what is wrong with a description, its source and its labelled pairs, before any work."""
    description = load_description(catalog)
    decoders(recipe.ingest)
    check_pair_rules(description, str(catalog))
    if description.source == "synthetic":
        return
    source, labelled = _open(description, recipe, str(catalog), workspace), description.pairs.labelled
    rows = ScreenedRows(source, description, recipe.ingest.max_cell_characters, str(catalog))
    ids = {row.id for row in rows}
    rows.check_whole()
    if too_many(rows.rejected, rows.count, recipe.ingest.max_quarantined_share):
        return  # ingest says which rows are bad and why, and keeps them
    rows.check_families()
    if labelled is not None:
        from mlim.pairs.user_pairs import read_user_pairs, user_pairs  # only here: scipy takes a second to load

        user_pairs(read_user_pairs(labelled), str(labelled), ids, set())


def _open(description: CatalogDescription, recipe: Recipe, where: str, workspace: Workspace) -> Source:
    most_bytes = round(recipe.ingest.max_picture_mb * BYTES_PER_MB)
    source = open_source(description, where, workspace.downloads.absolute(), most_bytes)
    check_source(source, description, where)
    return source


def _drawn(
    description: CatalogDescription, recipe: Recipe, workspace: Workspace, terminal: Terminal
) -> CatalogDescription:
    """The description as it is, or the table and pictures that were drawn for a synthetic one."""
    drawing = description.synthetic
    if description.source != "synthetic" or drawing is None:
        return description
    from mlim.embedded.generate import synthesize

    claim_work(workspace)
    out = workspace.root / "synthetic"
    synthesize(out, drawing.items, drawing.seed, drawing.image_size, decoders(recipe.ingest), terminal)
    drawn = load_description(out / "catalog.yaml")
    return description.model_copy(update={"source": "table", "table": drawn.table, "images": drawn.images})


def _keep(folder: Path, refused: Path) -> None:
    """What a person needs to see why the catalog was refused."""
    with atomic_folder(refused) as kept:
        for name in (QUARANTINE_FILE, SUMMARY_FILE):
            shutil.copy2(folder / name, kept / name)


def _say_rejected(folder: Path, refused: Path, terminal: Terminal) -> None:
    """What was rejected of a source that could not be read to its end, and where all of it is."""
    lines = first_rejected(folder / QUARANTINE_FILE)
    if lines:
        terminal.warn("\n".join((f"rejected until then (all in {refused / QUARANTINE_FILE}):", *lines)))

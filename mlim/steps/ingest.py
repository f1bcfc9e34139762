"""Step `ingest`: a described catalog -> items/ (shards, manifest, ledger, quarantine, summary)."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlim.catalog.description import CatalogDescription, check_pair_rules, load_description
from mlim.catalog.ingest import check_share, check_source, ingest_items, read_rows
from mlim.catalog.quarantine import QUARANTINE_FILE
from mlim.catalog.sources.base import Source
from mlim.catalog.sources.opening import open_source
from mlim.console import Terminal
from mlim.errors import DataError, MlimError
from mlim.files import atomic_folder, write_json
from mlim.processes import cores
from mlim.recipe import Recipe
from mlim.workspace import Workspace

SUMMARY_FILE = "summary.json"
BYTES_PER_MB = 1_000_000


def ingest(recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Read the catalog described by the file `catalog` into workspace.items; returns the counts of its rows.

    `InputError` when description or source are wrong; `DataError` when too many rows are bad: then the last good items
    stay, and the quarantine lies beside them in items.refused. A run that was killed is continued by the next one.
    """
    description = _drawn(load_description(catalog), recipe, workspace, terminal)
    source = _open(description, recipe, str(catalog), workspace)
    rows = read_rows(source, description, recipe, str(catalog))
    refused = workspace.items.with_name(f"{workspace.items.name}.refused")
    with _alone(workspace), atomic_folder(workspace.items) as folder:
        counts = ingest_items(rows, source, recipe, folder, workspace.shards.absolute(), terminal)
        summary = {**counts, "catalog": str(catalog), "source": dict(source.report())}
        write_json(folder / SUMMARY_FILE, summary)
        try:
            check_share(summary, recipe.ingest.max_quarantined_share, refused / QUARANTINE_FILE)
        except DataError:
            _keep(folder, refused)
            raise
    shutil.rmtree(refused, ignore_errors=True)
    return summary


def check_catalog(recipe: Recipe, catalog: Path, workspace: Workspace) -> None:
    """`InputError` listing what is wrong with a description, its source and its labelled pairs, before any work."""
    description = load_description(catalog)
    check_pair_rules(description, str(catalog))
    if description.source == "synthetic":
        return
    source, labelled = _open(description, recipe, str(catalog), workspace), description.pairs.labelled
    ids = {row.id for row in read_rows(source, description, recipe, str(catalog))}
    if labelled is not None:
        from mlim.pairs import labelled_pairs, read_labelled  # only here: scipy takes a second to load

        labelled_pairs(read_labelled(labelled), str(labelled), ids, set())


def _open(description: CatalogDescription, recipe: Recipe, where: str, workspace: Workspace) -> Source:
    most_bytes = round(recipe.ingest.max_picture_mb * BYTES_PER_MB)
    source = open_source(description, where, workspace.downloads.absolute(), most_bytes)
    check_source(source, description, where)
    return source


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """Only one ingest at a time works on a work folder; `MlimError` when there is another."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace.root / ".ingest.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise MlimError(
            f"another `mlim ingest` is writing to {workspace.root}; wait for it, or choose another --work"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _drawn(
    description: CatalogDescription, recipe: Recipe, workspace: Workspace, terminal: Terminal
) -> CatalogDescription:
    """The description as it is, or the table and pictures that were drawn for a synthetic one."""
    drawing = description.synthetic
    if description.source != "synthetic" or drawing is None:
        return description
    from mlim.catalog.synthetic import synthesize

    out = workspace.root / "synthetic"
    workers = recipe.ingest.workers or cores()
    synthesize(out, drawing.items, drawing.seed, drawing.image_size, workers, terminal)
    drawn = load_description(out / "catalog.yaml")
    return description.model_copy(update={"source": "table", "table": drawn.table, "images": drawn.images})


def _keep(folder: Path, refused: Path) -> None:
    """What a person needs to see why the catalog was refused."""
    with atomic_folder(refused) as kept:
        for name in (QUARANTINE_FILE, SUMMARY_FILE):
            shutil.copy2(folder / name, kept / name)

"""Step `ingest`: a described catalog -> items/ (shards, manifest, quarantine, summary)."""

import shutil
from pathlib import Path
from typing import Any

from mlim.catalog.description import CatalogDescription, check_pair_rules, load_description
from mlim.catalog.ingest import check_share, ingest_items, read_source
from mlim.catalog.quarantine import QUARANTINE_FILE
from mlim.console import Terminal
from mlim.errors import DataError
from mlim.files import atomic_folder, write_json
from mlim.recipe import Recipe
from mlim.workspace import Workspace

SUMMARY_FILE = "summary.json"


def ingest(recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal) -> dict[str, Any]:
    """Read the catalog described by the file `catalog` into workspace.items; returns the ledger of its rows.

    `InputError` when description, table or folder are wrong; `DataError` when too many rows are bad: then the last
    good items stay, and the quarantine lies beside them in items.refused.
    """
    description = _drawn(load_description(catalog), recipe, workspace, terminal)
    frame = read_source(description, str(catalog))
    refused = workspace.items.with_name(f"{workspace.items.name}.refused")
    with atomic_folder(workspace.items) as folder:
        summary = {**ingest_items(frame, description, recipe, folder, terminal), "catalog": str(catalog)}
        write_json(folder / SUMMARY_FILE, summary)
        try:
            check_share(summary, recipe.ingest.max_quarantined_share, refused / QUARANTINE_FILE)
        except DataError:
            _keep(folder, refused)
            raise
    shutil.rmtree(refused, ignore_errors=True)
    return summary


def check_catalog(catalog: Path) -> None:
    """`InputError` listing what is wrong with a description, its table and its labelled pairs, before any work."""
    description = load_description(catalog)
    check_pair_rules(description, str(catalog))
    if description.source != "table":
        return
    frame, labelled = read_source(description, str(catalog)), description.pairs.labelled
    if labelled is not None:
        from mlim.pairs import labelled_pairs, read_labelled  # only here: scipy takes a second to load

        labelled_pairs(read_labelled(labelled), str(labelled), set(frame[description.columns.id]), set())


def _drawn(
    description: CatalogDescription, recipe: Recipe, workspace: Workspace, terminal: Terminal
) -> CatalogDescription:
    """The description as it is, or a synthetic one with the table and pictures that were drawn for it."""
    drawing = description.synthetic
    if description.source != "synthetic" or drawing is None:
        return description
    from mlim.catalog.synthetic import synthesize

    out = workspace.root / "synthetic"
    synthesize(out, drawing.items, drawing.seed, drawing.image_size, recipe.ingest.workers, terminal)
    drawn = load_description(out / "catalog.yaml")
    return description.model_copy(update={"table": drawn.table, "images": drawn.images})


def _keep(folder: Path, refused: Path) -> None:
    """What a person needs to see why the catalog was refused."""
    with atomic_folder(refused) as kept:
        for name in (QUARANTINE_FILE, SUMMARY_FILE):
            shutil.copy2(folder / name, kept / name)

"""`mlim score`: a table of pairs of a catalog's items with the scores of a model, and the items as it reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from mlim.catalog.description import load_description
from mlim.catalog.quarantine import QUARANTINE_FILE
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.files import read_json
from mlim.ingest.freshness import READ_FILES, changed_files, stale_sentence
from mlim.matching.batch import ADDED, UNKNOWN_ITEM, ScoringRun, score_table
from mlim.matching.model import MatchingModel
from mlim.matching.pairs_table import PairsTable, check_out
from mlim.matching.settings import ServingSettings
from mlim.processes import collection_paused, processes_for
from mlim.recipe import Recipe
from mlim.recipe.base import Modality
from mlim.shards.belonging import check_index
from mlim.shards.items import ItemStore, open_items
from mlim.steps.ingest import SUMMARY_FILE, ingest
from mlim.workspace import INDEX_FILE, Workspace

WORKERS: Final = "--workers"


def score_pairs(
    model: MatchingModel,
    pairs: Path,
    out: Path,
    recipe: Recipe,
    workspace: Workspace,
    terminal: Terminal,
    *,
    modality: Modality | None = None,
    threshold: float | None = None,
    workers: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write the table `pairs` with scores to `out` (.parquet or .csv); returns counts and what names the model.

    The items are those of `workspace` (`prepare_items`). A pair matches from `threshold` on, None: the model's.
    `workers` processes compute; None: one for each core where the work is worth starting them, or one where the model
    is on a GPU. `InputError` before any
    work when table, target or items are wrong.
    """
    check_request(model, pairs, out, modality, force=force)
    run = scoring_run(model, recipe, workspace, modality, threshold)
    wanted = 1 if workers is None and model.device.type != "cpu" else workers
    processes = None if wanted is None else processes_for(wanted, WORKERS)
    counts = score_table(run, PairsTable(pairs), out, processes, terminal)
    summary = {**counts, "model": model.sha256, "threshold": run.threshold, "modality": run.modality}
    terminal.say(
        f"{counts['scored']:,} of {counts['pairs']:,} pairs scored, {counts['matches']:,} of them match"
        + "".join(f"; {count:,} {reason}" for reason, count in counts["not_scored"].items())
    )
    unknown = counts["not_scored"].get(UNKNOWN_ITEM, 0)
    if unknown * 2 > counts["pairs"]:
        terminal.warn(
            f"{unknown:,} of {counts['pairs']:,} pairs name an item that the catalog does not have: compare the ids in "
            f"{pairs} with those of the catalog (a spreadsheet removes leading zeros)"
        )
    return summary


def check_request(
    model: MatchingModel, pairs: Path, out: Path, modality: Modality | None, *, force: bool = False
) -> None:
    """`InputError` when the table, the target or the modality is wrong; nothing is read of the items."""
    check_out(out, force)
    PairsTable(pairs).check(ADDED.names)
    model.check_modality(modality)


def scoring_run(
    model: MatchingModel,
    recipe: Recipe,
    workspace: Workspace,
    modality: Modality | None = None,
    threshold: float | None = None,
) -> ScoringRun:
    """What scores pairs of the items of `workspace`; `InputError` when they were prepared for another model."""
    store = open_items(recipe.loader, workspace)
    check_items(store, model.settings, workspace)
    quarantined = read_reasons([workspace.items, workspace.valid])
    shown = model.check_modality(modality)
    lowest = model.threshold_of(shown) if threshold is None else threshold
    cluster = recipe.ingest.cluster
    return ScoringRun(model, shown, store, quarantined, workspace.cache, lowest, cluster=cluster)


def prepare_items(
    recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal, *, again: bool = False
) -> None:
    """Ingest and validate a catalog for matching, unless the work folder has its items; never those of another one.

    `again`: even if it has them, so that they are those of now; but items that a model is trained on stay, and so do
    shards that lie elsewhere (`loader.items`).
    """
    if (workspace.valid / INDEX_FILE).is_file():
        ingested = read_json(workspace.items / SUMMARY_FILE)
        if not _are_of(ingested, catalog):
            raise InputError(
                f"--work {workspace.root}: holds the items of {ingested['catalog']}, not of {catalog}; choose another "
                "folder"
            )
        if not again or recipe.loader.items or (workspace.pairs / "pairs.parquet").is_file():
            if not recipe.loader.items:
                check_index(workspace.valid / INDEX_FILE, workspace.items)
            _warn_of_changes(catalog, workspace, terminal)
            return
    with collection_paused():
        from mlim.steps.validate import validate  # Great Expectations takes seconds to load; most runs have their items

    ingest(recipe, catalog, workspace, terminal, for_pairs=False)
    validate(recipe, catalog, workspace, terminal)


def _are_of(ingested: Mapping[str, Any], catalog: Path) -> bool:
    """Whether items were read from this catalog: from the same path, or, said from another folder, the same files."""
    if Path(ingested["catalog"]).resolve() == catalog.resolve():
        return True
    known = catalog.name in ingested.get(READ_FILES, {})
    return known and not changed_files(ingested, load_description(catalog), catalog)


def _warn_of_changes(catalog: Path, workspace: Workspace, terminal: Terminal) -> None:
    """Say which files of the catalog changed since its items were made; images are not looked at."""
    ingested = read_json(workspace.items / SUMMARY_FILE)
    changed = changed_files(ingested, load_description(catalog), catalog)
    if not changed:
        return
    if (workspace.pairs / "pairs.parquet").is_file():
        terminal.warn(stale_sentence(changed, catalog, workspace.root))
        return
    terminal.warn(  # `mlim ingest` would prepare them for training, not for this model
        f"the items in {workspace.root} are older than the catalog: {', '.join(changed)} changed; `mlim match` with "
        "--since and the folder of the last match reads it again, or choose another --work"
    )


def prepared_for(recipe: Recipe, settings: ServingSettings) -> Recipe:
    """The recipe with which a catalog is ingested for matching; it trains no network.

    Images are prepared as the model reads them. Limits that training pairs need (families, few copies) are lifted:
    copies are what is looked for.
    """
    image = recipe.image.model_copy(update={"size": settings.image_size, "jpeg_quality": settings.jpeg_quality})
    limits = {"min_family_share": 0.0, "min_varied_share": 0.0, "max_copied_share": 1.0}
    return recipe.model_copy(update={"image": image, "validation": recipe.validation.model_copy(update=limits)})


def check_items(store: ItemStore, settings: ServingSettings, workspace: Workspace) -> None:
    """`InputError` when the images of the items have another size than the model reads."""
    if len(store):
        height, width = store.image(store.ids[0]).shape[:2]
        if (height, width) != (settings.image_size, settings.image_size):
            raise InputError(
                f"--work {workspace.root}: its images have {width} x {height} pixels, but the model reads "
                f"{settings.image_size} x {settings.image_size}; choose another work folder, so that they are prepared "
                "for this model"
            )


def read_reasons(folders: Sequence[Path]) -> dict[str, str]:
    """Why rows were rejected from a catalog, by id; of several rows with one id, the first."""
    found: dict[str, str] = {}
    for path in (folder / QUARANTINE_FILE for folder in folders):
        if path.is_file():
            table = pq.read_table(path, columns=["id", "reason"])
            for item, reason in zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True):
                found.setdefault(item, reason)
    return found

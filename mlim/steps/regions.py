"""`mlim regions SOURCE`: store the regions of every picture, with features, for systems that read regions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from mlim.catalog.annotation_rules import AnnotationRules, LxmertFiles
from mlim.catalog.description import CatalogDescription, load_description
from mlim.catalog.quarantine import QUARANTINE_FILE, Quarantined, describe_reasons, write_quarantine
from mlim.console import Terminal
from mlim.data.annotated import AnnotationTables
from mlim.data.loader import chunks
from mlim.data.objects import ObjectNames
from mlim.data.regions import COLUMNS, OFFSETS, SUMMARY_FILE, RegionFacts
from mlim.errors import InputError
from mlim.files import atomic_file, atomic_folder, remove_folder, sha256_of, sha256_of_bytes, write_json
from mlim.recipe import Recipe
from mlim.recipe.image_sides import ANNOTATED, TSV, RegionSide
from mlim.shards.items import ItemStore, open_items
from mlim.steps.region_sources import DetectedRegions, FileRegions, Regions, RegionSource, SampledRegions
from mlim.steps.trained import MODEL_FOLDER
from mlim.training.device import choose_device
from mlim.workspace import Workspace

CHUNK: Final = 256  # pictures that are looked at, and written, at a time
COUNTS, REJECTED = "counts", "rejected"
KINDS: Final[Mapping[str, Any]] = {
    "features": np.float16,
    "boxes": np.float32,
    "labels": np.int64,
    "scores": np.float32,
    "attributes": np.int64,
    "attribute_scores": np.float32,
}


def regions(recipe: Recipe, catalog: Path, workspace: Workspace, terminal: Terminal, source: str) -> dict[str, Any]:
    """Write workspace.regions(source): the files of mlim/data/regions.py, quarantine.parquet, summary.json.

    `source` is `annotated`, `grid`, `detector:PRETRAINING`, `tsv` (the files that catalog.yaml names) or `tsv:FILE`.
    Finished chunks of pictures stay in the cache until all are done, so that a step that was killed continues. Returns
    the summary. `InputError` for a source that no system of the recipe reads, for what it needs and is missing, and for
    a file that is not of its layout.
    """
    kind, _, file = source.partition(":")
    side = _side_of(recipe, TSV if kind == TSV else source)
    store, description = open_items(recipe.loader, workspace), load_description(catalog)
    found = _open(recipe, workspace, side, store, description, Path(file) if kind == TSV and file else None)
    _check_told(found.names(0, 0), description)
    folder = workspace.cache / "regions" / _key(found, side, store)
    parts = _find(found, store, folder, terminal, source)
    with atomic_folder(workspace.regions(source)) as made:
        names = _write(made, parts, found)
        rejected = write_quarantine(made / QUARANTINE_FILE, _rejected(parts))
        summary = _summarise(made, parts, names, found, store, side, rejected)
        write_json(made / SUMMARY_FILE, summary)
    remove_folder(folder)
    terminal.say(
        f"{summary['regions']} regions of {summary['pictures']} pictures, {summary['pictures_without']} have none; "
        f"quarantined: {describe_reasons(rejected) or 'none'}"
    )
    return summary


def _side_of(recipe: Recipe, source: str) -> RegionSide:
    """How the recipe's systems want the regions of a source."""
    known = {side.source: side for side in recipe.stored_regions.values()}
    if source not in known:
        others = f"they read {', '.join(known)}" if known else "none reads stored regions"
        raise InputError(
            f"no system of the recipe reads regions of source `{source}` ({others}); say `systems.NAME.image: {{kind: "
            f"regions, source: '{source}'}}`, with `stored: true` where it is the grid"
        )
    return known[source]


def _open(
    recipe: Recipe,
    workspace: Workspace,
    side: RegionSide,
    store: ItemStore,
    description: CatalogDescription,
    file: Path | None,
) -> RegionSource:
    device = choose_device(recipe.device)
    if side.source == TSV:
        files = (description.annotations or AnnotationRules()).files.lxmert or LxmertFiles()
        paths = [file] if file is not None else [*files.features]
        if not paths:
            raise InputError(
                "no files of regions are known; run `mlim regions tsv:FILE`, or name them in `annotations.files.lxmert."
                "features` of the catalog"
            )
        return FileRegions(paths, files, store)
    if side.detector is not None:
        model = workspace.pretrained(side.detector, recipe.seeds[0]) / MODEL_FOLDER
        return DetectedRegions(side, store, model, device)
    tables = AnnotationTables(workspace.annotations)
    if side.source == ANNOTATED and not tables.names.labels:
        raise InputError(f"{workspace.annotations}: no objects are annotated; run `mlim annotate` first")
    return SampledRegions(side, store, tables, device)


def _key(found: RegionSource, side: RegionSide, store: ItemStore) -> str:
    """Names what the chunks are: the same for the same source, settings and items."""
    known = [side.store, dict(found.made_from), found.changed_ns, store.fingerprint, CHUNK]
    return sha256_of_bytes(json.dumps(known, sort_keys=True).encode())[:16]


def _find(found: RegionSource, store: ItemStore, folder: Path, terminal: Terminal, source: str) -> list[Path]:
    """One file for each chunk of items, in their order; those that are there already stay."""
    ids = chunks(store.ids, CHUNK)
    total = -(-len(store) // CHUNK)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"{number:08d}.npz" for number in range(total)]
    with terminal.progress(f"regions {source}", total) as bar:
        for part, items in zip(parts, ids, strict=True):
            if not part.is_file():
                _write_part(part, *found.find(items))
            bar.advance(1, f"{len(items)} pictures")
    return parts


def _write_part(path: Path, found: Sequence[Regions], rejected: Sequence[Quarantined]) -> None:
    ordered = [regions.best_first() for regions in found]
    columns = {
        name: np.concatenate([getattr(regions, name) for regions in ordered]).astype(kind)
        for name, kind in KINDS.items()
    }
    counts = np.array([len(regions.labels) for regions in ordered], np.int64)
    lines = json.dumps([{**asdict(row), "thumbnail": None} for row in rejected])
    with atomic_file(path) as temporary, temporary.open("wb") as target:
        np.savez(target, allow_pickle=False, **columns, counts=counts, rejected=np.array(lines))


def _write(folder: Path, parts: Sequence[Path], found: RegionSource) -> ObjectNames:
    """The columns of all chunks, one after the other; gives what labels and attributes are called."""
    counts = np.concatenate([_read(part, COUNTS) for part in parts])
    offsets = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    if not offsets[-1]:
        raise InputError(
            "no picture of the catalog has a region; look at the source (train a detector for longer, or lower "
            "`least_score`), or choose another one"
        )
    np.save(folder / f"{OFFSETS}.npy", offsets)
    largest = {}
    for name, kind in KINDS.items():
        first = _read(parts[0], name)
        whole = open_memmap(folder / f"{name}.npy", "w+", kind, (int(offsets[-1]), *first.shape[1:]))
        start = 0
        for values in (_read(part, name) for part in parts):
            whole[start : start + len(values)] = values
            start += len(values)
        whole.flush()
        largest[name] = int(whole.max(initial=-1)) + 1 if name in ("labels", "attributes") else 0
    return found.names(largest["labels"], largest["attributes"])


def _read(part: Path, name: str) -> NDArray[Any]:
    with np.load(part, allow_pickle=False) as stored:
        values: NDArray[Any] = stored[name]
    return values


def _rejected(parts: Sequence[Path]) -> Iterator[Quarantined]:
    for part in parts:
        yield from (Quarantined(**row) for row in json.loads(str(_read(part, REJECTED))))


def _check_told(names: ObjectNames, description: CatalogDescription) -> None:
    """`InputError` when regions would tell, as attributes, what decides the labels of the pairs."""
    allowed = () if description.annotations is None else description.annotations.may_tell
    if told := [kind for kind in names.attributes if kind in {*description.pairs.decided_by} - {*allowed}]:
        raise InputError(
            f"the attribute `{told[0]}` of these regions decides which pairs match (pairs.decided_by); leave it out of "
            f"`annotations` and run `mlim annotate` again, or say `annotations.may_tell: [{told[0]}]`"
        )


def _summarise(
    folder: Path,
    parts: Sequence[Path],
    names: ObjectNames,
    found: RegionSource,
    store: ItemStore,
    side: RegionSide,
    rejected: Mapping[str, int],
) -> dict[str, Any]:
    counts = np.concatenate([_read(part, COUNTS) for part in parts])
    files = {f"{name}.npy": sha256_of(folder / f"{name}.npy") for name in (*COLUMNS, OFFSETS)}
    facts = RegionFacts(
        items=store.fingerprint,
        settings=side.store,
        made_from=found.made_from,
        names=names,
        feature_size=_read(parts[0], "features").shape[1],
        pictures=len(counts),
        regions=int(counts.sum()),
        pictures_without=int((counts == 0).sum()),
        quarantined=rejected,
        unknown_pictures=found.unknown_pictures,
        files=files,
    )
    return facts.model_dump(mode="json")

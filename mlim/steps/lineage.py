"""`mlim lineage`: from a registered version back to code, data and runs, and from data or an item to versions."""

import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from mlim.catalog.description import load_description
from mlim.errors import InputError, MlimError
from mlim.files import atomic_file, check_replaceable, read_json, sha256_of
from mlim.recipe import TrackingConfig
from mlim.registry import RUN_PREFIX, VERSION_SHA256, Registry, registered, requirements
from mlim.steps.seen import items_of, record_of
from mlim.tracking import is_recorded, run_tags, runs_on
from mlim.versions import UNKNOWN, Lineage
from mlim.workspace import Workspace

SHORTEST: Final = 6  # characters of a data version
TOLD: Final = {
    "train": "learned from it",
    "validation": "chose its step, threshold and calibration with it",
    "test": "was judged on it and learned nothing from it",
}
ABSENT, UNANSWERED = "did not see it", "cannot be answered: registered before items were recorded, or the run is gone"
TAGS: Final = {
    "commit": "mlim.commit",
    "dirty": "mlim.dirty",
    "registered_at_commit": "mlim.registered_at_commit",
    "recipe": "mlim.recipe",
    "recipe_sha256": "mlim.recipe_sha256",
    "data_version": "mlim.data_version",
    "manifest": "mlim.items_sha256",
    "validation": "mlim.validation",
    "test_pairs": "mlim.test_pairs_sha256",
    "files": VERSION_SHA256,
}


def made_here(workspace: Workspace, origin: Lineage) -> dict[str, Any]:
    """What registration knows of a model beyond its tags: catalog and source files, counts, environment."""
    ingested = workspace.items / "summary.json"
    return {
        "catalog": origin.catalog,
        "source_files": source_files(Path(origin.catalog)),
        "rows_in": read_json(ingested).get("rows_in") if ingested.is_file() else None,
        "environment": environment(),
    }


def source_files(catalog: Path) -> dict[str, str]:
    """The SHA-256 of catalog.yaml and of the tables that it names, as they are now; none where they are elsewhere."""
    if not catalog.is_file():
        return {}
    try:
        table = load_description(catalog).table
    except MlimError:  # no description any more
        table = None
    tables = [] if table is None else sorted(table.parent.glob(table.name))
    return {str(path): sha256_of(path) for path in (catalog, *tables) if path.is_file()}


def environment() -> dict[str, Any]:
    """Python, platform and the version of every installed package."""
    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "needs": requirements(),
        "packages": {name: installed[name] for name in sorted(installed, key=str.lower)},
    }


def lineage_of(tracking: TrackingConfig, registry: Registry, version: str) -> dict[str, Any]:
    """Everything that a version came from; `unknown` where nothing was recorded."""
    tags = registry.tags(version)
    record = record_of(tracking, registry, version) or {}
    return {
        "model": registry.name,
        "version": version,
        "aliases": registry.roles.of(version),
        **{name: tags.get(tag, UNKNOWN) for name, tag in TAGS.items()},
        "runs": {
            name.removeprefix(RUN_PREFIX): _run(tracking, run)
            for name, run in sorted(tags.items())
            if name.startswith(RUN_PREFIX)
        },
        **{name: record.get(name, UNKNOWN) for name in ("catalog", "source_files", "rows_in", "environment")},
    }


def write_bill(found: Mapping[str, Any], out: Path) -> None:
    """Write the bill of materials of a version, of which `lineage_of` gave `found`, to the file `out`.

    `InputError` without its package, for a version of which nothing was recorded, and for a file of somebody else's.
    """
    try:
        from mlim.report.sbom import SIGN, bill_of_materials
    except ImportError as error:
        raise InputError(f"a bill of materials needs `pip install 'mlim[sbom]'` ({error})") from None
    if found["environment"] == UNKNOWN:
        raise InputError(
            f"{found['model']} version {found['version']}: its packages were not recorded, or the run that registered "
            "it is gone; register the model again"
        )
    check_replaceable(out, SIGN)
    with atomic_file(out) as temporary:
        temporary.write_text(bill_of_materials(found), encoding="utf-8")


def _run(tracking: TrackingConfig, run: str) -> dict[str, Any]:
    """A run with the code and data that it was made with."""
    if not is_recorded(tracking, run):
        return {"id": run, "recorded": False}
    tags = run_tags(tracking, run)
    known = {name: tags.get(TAGS[name], UNKNOWN) for name in ("commit", "dirty", "manifest")}
    return {"id": run, "recorded": True, **known}


def trained_on(tracking: TrackingConfig, data: str) -> dict[str, Any]:
    """The versions of all models, and the runs, whose data version or manifest begins with `data`.

    `InputError` when these are too few characters to name one.
    """
    if len(data) < SHORTEST:
        raise InputError(f"--data {data}: give at least {SHORTEST} characters of a data version (`mlim lineage MODEL`)")
    found = [
        {"model": registry.name, "version": version, "aliases": registry.roles.of(version)}
        for registry, version, tags in _all(tracking)
        if any(tags.get(TAGS[name], "").startswith(data) for name in ("data_version", "manifest"))
    ]
    return {"data": data, "versions": found, "runs": runs_on(tracking, data)}


def saw_item(tracking: TrackingConfig, item: str) -> dict[str, Any]:
    """What every registered version of every model did with an item, with the data versions that hold it.

    `unanswered` names the versions that nothing is recorded of: for those, nobody can say.
    """
    answers = list(_answers(tracking, item))
    manifests = sorted({each["manifest"] for each in answers if each["split"] is not None} - {UNKNOWN})
    return {
        "item": item,
        "versions": answers,
        "unanswered": [f"{each['model']} version {each['version']}" for each in answers if each["did"] == UNANSWERED],
        "runs": [run for manifest in manifests for run in runs_on(tracking, manifest)],
    }


def _answers(tracking: TrackingConfig, item: str) -> Iterator[dict[str, Any]]:
    for registry, version, tags in _all(tracking):
        items = items_of(tracking, registry, version)
        split = None if items is None else next(iter(items.loc[items["id"] == item, "split"]), None)
        did = UNANSWERED if items is None else ABSENT if split is None else TOLD[split]
        yield {
            "model": registry.name,
            "version": version,
            "aliases": registry.roles.of(version),
            "manifest": tags.get(TAGS["manifest"], UNKNOWN),
            "split": split,
            "did": did,
        }


def _all(tracking: TrackingConfig) -> Iterator[tuple[Registry, str, Mapping[str, str]]]:
    """Every version of every registered model, by name and number."""
    for name, versions in registered(tracking).items():
        registry = Registry(tracking, name)
        for version, tags in versions.items():
            yield registry, version, tags

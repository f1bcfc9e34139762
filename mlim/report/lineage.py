"""Lineage in words for a terminal: a version's origin, and which versions come from some data or an item."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlim.console import aligned, printable

SHOWN: Final = 16  # characters of a hash
PLAIN: Final = ("recipe", "validation", "catalog", "rows_in")
HASHES: Final = ("commit", "registered_at_commit", "recipe_sha256", "data_version", "manifest", "test_pairs", "files")


def describe_version(found: Mapping[str, Any]) -> list[str]:
    """Where a version comes from."""
    aliases = f" ({', '.join(found['aliases'])})" if found["aliases"] else ""
    changed = " with uncommitted changes" if found["dirty"] == "true" else ""
    rows = [
        ("commit", f"{found['commit']}{changed}"),
        *((name.replace("_", " "), str(found[name])) for name in (*HASHES[1:], *PLAIN)),
        *((f"source {path}", sha256) for path, sha256 in _mapping(found["source_files"]).items()),
        *((f"run {stage}", _run(run)) for stage, run in found["runs"].items()),
        *_environment(_mapping(found["environment"])),
    ]
    return [f"{found['model']} version {found['version']}{aliases}", *_table(rows)]


def _run(run: Mapping[str, Any]) -> str:
    if not run["recorded"]:
        return f"{run['id']} (no longer in this store)"
    return f"{run['id']} (commit {run['commit'][:SHOWN]}, manifest {run['manifest'][:SHOWN]})"


def _environment(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not found:
        return [("environment", "unknown")]
    packages = f"{len(found['packages'])} packages; {', '.join(found['needs'])}"
    return [("environment", f"Python {found['python']}, {found['platform']}"), ("packages", packages)]


def _mapping(found: object) -> Mapping[str, Any]:
    """A recorded mapping; empty where nothing was recorded."""
    return found if isinstance(found, dict) else {}


def describe_data(found: Mapping[str, Any]) -> list[str]:
    """Which versions and runs were trained on a data version."""
    versions = [(_named(each), ", ".join(each["aliases"])) for each in found["versions"]]
    head = f"{len(versions)} registered versions were trained on data {found['data']}"
    return [head, *_table(versions), *_runs(found["runs"])]


def describe_item(found: Mapping[str, Any]) -> list[str]:
    """What each version did with an item, and for which nobody can say."""
    versions = [(_named(each), ", ".join(each["aliases"]), each["did"]) for each in found["versions"]]
    learned = sum(each["split"] in ("train", "validation") for each in found["versions"])
    unanswered = found["unanswered"]
    warning = [f"NOT ANSWERED for {len(unanswered)}: {', '.join(unanswered)}"] if unanswered else []
    head = f"item {found['item']}: {learned} of {len(versions)} registered versions learned from it or chose with it"
    return [head, *_table(versions), *warning, *_runs(found["runs"])]


def describe_reproduction(found: Mapping[str, Any]) -> list[str]:
    """How a second training compares with the first one."""
    trainings = [
        (stage, f"{one['rows']} rows of losses", f"{one['largest']:g}") for stage, one in found["trainings"].items()
    ]
    figures = [
        (name, f"{one['before']:.6f} before, {one['now']:.6f} now", f"{one['difference']:g}")
        for name, one in found["figures"].items()
    ]
    outcome = "the same to the last bit" if found["same"] else "not the same"
    head = f"{found['model']} version {found['version']}: {outcome}"
    return [head, *_table([("what", "compared", "largest difference"), *trainings, *figures]), *found["problems"]]


def _named(version: Mapping[str, Any]) -> str:
    return f"models:/{version['model']}/{version['version']}"


def _runs(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """The trainings of the same data, registered or not: their models may lie in work folders."""
    if not runs:
        return []
    shown = _table([(run["run"], run["name"]) for run in runs])
    return [f"{len(runs)} trainings of these data, registered or not (their models may lie in work folders):", *shown]


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned lines without control characters, which ids and paths may hold."""
    clean = [tuple(printable(cell) for cell in row) for row in rows]
    return [f"  {line}" for line in aligned(clean).splitlines()] if clean else []

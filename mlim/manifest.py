"""The manifest of a model's files, with the SHA-256 of each, and the manifest's own SHA-256 for the registry.

A manifest beside the files shows what was damaged. Who changes files on purpose writes a new manifest too: that one is
detected by its own SHA-256, which the registry keeps apart from the files.
"""

import shutil
from pathlib import Path

from mlim.errors import MlimError
from mlim.files import read_json, sha256_of, write_json

ARTIFACT = "matcher"  # the folder of weights, settings and tokenizer inside a version
MANIFEST = "manifest.json"
DERIVED = ("__pycache__", "registered_model_meta")  # Python's and MLflow's own, written where a version is read


class ChangedFilesError(MlimError):
    """The files of a model are gone or are not those that were registered."""


def write_manifest(folder: Path) -> str:
    """Write the manifest (SHA-256 of every file in `folder`) and give the manifest's own SHA-256."""
    write_json(folder / MANIFEST, _hashes(folder))
    return sha256_of(folder / MANIFEST)


def check_manifest(folder: Path, model: str, recorded: str | None = None) -> None:
    """`ChangedFilesError` unless the files in `folder` are exactly those that the manifest of `model` lists.

    `recorded`: the manifest's SHA-256 as kept elsewhere; without it, a manifest that was written again is not noticed.
    """
    try:
        listed, found = dict(read_json(folder / MANIFEST)), _hashes(folder)
    except (OSError, ValueError, TypeError, RecursionError):
        raise ChangedFilesError(f"{model} has no {MANIFEST} that can be read; register the model again") from None
    changed = sorted(name for name in {*listed, *found} if listed.get(name) != found.get(name))
    if recorded not in (None, sha256_of(folder / MANIFEST)):
        changed = [*changed, MANIFEST]
    if changed:
        raise ChangedFilesError(
            f"the files of {model} are not those that were registered: {_listed(changed)} changed; do not use it, "
            "fetch it again or register it again"
        )


def remove_derived(folder: Path) -> None:
    """Remove what Python and MLflow write into a version when they read it; no manifest lists it."""
    for path in [path for name in DERIVED for path in folder.rglob(name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _listed(names: list[str]) -> str:
    most = 5
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file by its path; a link counts as itself, wherever it leads."""
    found = sorted(path for path in folder.rglob("*") if path != folder / MANIFEST)
    return {
        path.relative_to(folder).as_posix(): f"link to {path.readlink()}" if path.is_symlink() else sha256_of(path)
        for path in found
        if path.is_symlink() or path.is_file()
    }

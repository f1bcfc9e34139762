"""What can be wrong with the store of runs and models, for `mlim doctor`: its place, roles, files of versions."""

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from mlim.findings import Finding
from mlim.local_store import ARTIFACTS, SQLITE, artifact_folders, database, schema
from mlim.manifest import ChangedFilesError
from mlim.recipe.tracking import TrackingConfig
from mlim.registry import VERSION_SHA256, Registry, registered
from mlim.tracking import TAG, URI_VARIABLE, silence, tracking_uri, without_password

MLFLOW, PLACE, ROLES, FILES = "MLflow", "tracking place", "registry", "model files"
DVC_COPIES: Final = (".dvc", "tmp")  # `dvc exp run --temp` works in copies there

Models = Sequence[tuple[Registry, Sequence[str]]]


def examine_store(tracking: TrackingConfig) -> list[Finding]:
    """Where runs lie, whether stages follow the aliases, and whether the files of all versions are there.

    `MlimError` when the store gives no answer.
    """
    uri = tracking_uri(tracking)
    if _is_of_another_mlflow(uri):
        detail = f"the tables of {database(uri)} are of another version of MLflow; make a copy, then upgrade them"
        return [Finding(MLFLOW, False, detail, shlex.join(["mlflow", "db", "upgrade", uri]))]
    models = _models(tracking)
    where = Finding(MLFLOW, True, without_password(uri))
    return [where, *_place(uri), *_roles(models, tracking), *_files(models, tracking)]


def _fix(tracking: TrackingConfig) -> str:
    """The command that repairs this store."""
    return shlex.join(["mlim", "doctor", "--fix", *_settings(tracking)])


def _settings(tracking: TrackingConfig) -> list[str]:
    """The options with which another command opens the same store."""
    return [] if tracking.uri is None else ["--set", f"tracking.uri={without_password(tracking.uri)}"]


def reconcile_roles(tracking: TrackingConfig) -> list[str]:
    """Let stages and the record of champions follow the aliases of all models; says what did not."""
    return [sentence for registry, _ in _models(tracking) for sentence in registry.roles.reconcile()]


def _is_of_another_mlflow(uri: str) -> bool:
    """Whether a local database has tables, and not those that the MLflow installed here needs."""
    if not uri.startswith(SQLITE):
        return False
    silence()
    found, needed = schema(database(uri))
    return found not in (None, needed)


def _models(tracking: TrackingConfig) -> Models:
    """The registered models that mlim made, each with its versions; a database without tables stays so."""
    uri = tracking_uri(tracking)
    silence()
    if uri.startswith(SQLITE):
        found, needed = schema(database(uri))
        if found != needed:
            return []
    ours = {
        name: [version for version, tags in versions.items() if VERSION_SHA256 in tags]
        for name, versions in registered(tracking).items()
    }
    return [(Registry(tracking, name), versions) for name, versions in ours.items() if versions]


def _place(uri: str) -> Iterator[Finding]:
    """Whether a local database and its artifacts will be there tomorrow; a project may be temporary as a whole."""
    if not uri.startswith(SQLITE):
        return
    store = database(uri)
    temporary = [name for name, folder in artifact_folders(store).items() if is_temporary(folder)]
    if is_temporary(Path.cwd()) or not (is_temporary(store) or temporary):
        yield Finding(PLACE, True, str(store.parent))
    elif is_temporary(store):
        yield _moved(store)
    else:
        yield Finding(
            PLACE,
            False,
            f"{store}: experiment `{temporary[0]}` keeps its artifacts in a temporary folder "
            f"({artifact_folders(store)[temporary[0]]}), which the system or DVC empties; copy what you need, and let "
            "runs go to another experiment",
            "mlim run --set tracking.experiment=NAME",
        )


def _moved(store: Path) -> Finding:
    """How a database and its artifacts come into this folder; no command where it would replace others."""
    detail = f"{store} is in a temporary folder, which the system or DVC empties"
    parts = [path for path in (store, store.parent / ARTIFACTS) if path.exists()]
    if taken := [path.name for path in parts if Path(path.name).exists()]:
        return Finding(PLACE, False, f"{detail}; {' and '.join(taken)} are here already: move it to another folder")
    moved = shlex.join(["mv", *map(str, parts), "."])
    there = shlex.quote(f"{SQLITE}{store.name}")
    return Finding(PLACE, False, detail, f"{moved} && export {URI_VARIABLE}={there} && mlim doctor --fix")


def is_temporary(path: Path) -> bool:
    """Whether a path lies in the system's folder of temporary files, or in one of DVC's."""
    absolute = path.absolute()
    copied = DVC_COPIES in zip(absolute.parts, absolute.parts[1:], strict=False)
    return copied or absolute.is_relative_to(Path(tempfile.gettempdir()).absolute())


def _roles(models: Models, tracking: TrackingConfig) -> Iterator[Finding]:
    """One finding for each stage, tag or record that disagrees with an alias, or one that none does."""
    found = [sentence for registry, _ in models for sentence in registry.roles.disagreements()]
    yield from (Finding(ROLES, False, sentence, _fix(tracking)) for sentence in found)
    if not found:
        yield Finding(ROLES, True, f"{len(models)} registered models, whose stages follow their aliases")


def _files(models: Models, tracking: TrackingConfig) -> Iterator[Finding]:
    """One finding for each version that has lost files, or one that none has."""
    versions = [(registry, version) for registry, found in models for version in found]
    lost = [finding for registry, version in versions for finding in _lost(registry, version, tracking)]
    yield from lost or [Finding(FILES, True, f"{len(versions)} registered versions have theirs")]


def _lost(registry: Registry, version: str, tracking: TrackingConfig) -> Iterator[Finding]:
    try:
        gone = registry.missing(version)
    except ChangedFilesError:
        gone = ["all of them, or their manifest"]
    if gone:
        aliases = "".join(f", {alias}" for alias in registry.roles.of(version))
        recipe = registry.tags(version).get(f"{TAG}recipe", "NAME")
        usual = registry.name == TrackingConfig().model_name
        model = [] if usual else ["--set", f"tracking.model_name={registry.name}"]
        yield Finding(
            FILES,
            False,
            f"{registry.name} version {version}{aliases}: files are gone ({gone[0]}{', ...' * (len(gone) > 1)}); put "
            f"{ARTIFACTS} back from a backup, or register the model again",
            shlex.join(["mlim", "register", "--recipe", recipe, *_settings(tracking), *model]),
        )

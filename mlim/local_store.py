"""A store of runs on this machine: a sqlite database, and the artifacts in a folder beside it.

MLflow keeps the place of every artifact as an absolute address. When the project is moved or copied, those lead to the
old place: `check_place` says so before anything is written there, and `mend` rewrites them.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from filelock import FileLock

from mlim.errors import InputError

SQLITE: Final = "sqlite:///"
ARTIFACTS: Final = "mlruns"
FILE: Final = "file://"


class Mended(NamedTuple):
    """What `mend` did: how many addresses it changed, and the copy of the database as it was before."""

    changed: int
    backup: Path


def address(path: Path) -> str:
    """The address of a database file; `InputError` for a path that SQLAlchemy would take for another one."""
    quoted = all(mark in f"{path}{Path.cwd()}" for mark in "'\"")  # MLflow writes both into SQL as they are
    if quoted or "?" in str(path) or unquote(str(path)) != str(path):
        raise InputError(
            f"tracking: {path} cannot be the address of a database (a path with `?`, with `%` before two hexadecimal "
            "digits, or with both kinds of quotes); move the project to another folder, or track on a server "
            "(tracking.uri, MLFLOW_TRACKING_URI)"
        )
    return f"{SQLITE}{path}"


def database(uri: str) -> Path:
    """The file that an address names, absolute."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]).absolute()


def locked(path: Path) -> FileLock:
    """The lock of everyone who changes the database as a whole."""
    return FileLock(f"{path}.lock")


def experiment_location(path: Path, name: str) -> str:
    """Where the artifacts of an experiment lie: beside the database."""
    return f"{(path.parent / ARTIFACTS).as_uri()}/{quote(name, safe='')}"


def check_place(path: Path, command: str) -> None:
    """`InputError` when artifacts of the database lie where it was before it was moved; `command` mends it."""
    for old in _old_places(path):
        raise InputError(
            f"tracking: {path} keeps its artifacts in {old / ARTIFACTS} and not beside itself: the project was moved "
            f"or copied; run `{command}`, which rewrites the addresses"
        )


def _old_places(path: Path) -> list[Path]:
    """The folders, other than the database's own, that it was in when mlim made its experiments."""
    if not path.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
    except sqlite3.Error:  # no store yet
        return []
    found = {Path(place) for name, location in rows for place in _place_of(name, location or "")}
    return sorted(place for place in found if place.resolve() != path.parent.resolve())


def _place_of(name: str, location: str) -> Iterator[str]:
    """The folder of the database, where mlim itself chose this location."""
    ending = f"/{ARTIFACTS}/{quote(name, safe='')}"
    if location.startswith(FILE) and location.endswith(ending):
        yield unquote(location.removeprefix(FILE).removesuffix(ending)) or "/"


def mend(path: Path) -> Mended | None:
    """Let every address of an artifact lead to the folder beside the database; None when they do so already.

    A copy of the database is made first. `InputError` when there is no such folder.
    """
    with locked(path):
        places = _old_places(path)
        if not places:
            return None
        if not (path.parent / ARTIFACTS).is_dir():
            raise InputError(
                f"{path.parent / ARTIFACTS} is missing: bring the artifacts ({places[0] / ARTIFACTS}) there first"
            )
        backup = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.bak")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        shutil.copymode(path, backup)
        return Mended(sum(_rewrite(path, place) for place in places), backup)


def _rewrite(path: Path, old: Path) -> int:
    """Replace the folder that the database was in by the one it is in; gives the number of addresses."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun
    from sqlalchemy import create_engine, func, update

    columns = {
        SqlExperiment: ("artifact_location",),
        SqlRun: ("artifact_uri",),
        SqlLoggedModel: ("artifact_location",),
        SqlModelVersion: ("source", "storage_location"),
    }
    spellings = [
        (f"{old.as_uri()}/{ARTIFACTS}/", f"{path.parent.as_uri()}/{ARTIFACTS}/"),
        (f"{old}/{ARTIFACTS}/", f"{path.parent}/{ARTIFACTS}/"),
    ]
    engine = create_engine(address(path))
    changed = 0
    with engine.begin() as connection:
        for table, name in ((table, name) for table, names in columns.items() for name in names):
            column = getattr(table, name)
            for before, after in spellings:
                values = {name: after + func.substr(column, len(before) + 1)}
                found = update(table).where(column.startswith(before, autoescape=True)).values(values)
                changed += connection.execute(found).rowcount
    engine.dispose()
    return changed

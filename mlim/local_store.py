"""A store of runs on this machine: a sqlite database, and the artifacts in a folder beside it.

MLflow keeps the place of every artifact as an absolute address. When the project is moved or copied, those lead to the
old place: `check_place` says so before anything is written there, and `mend` rewrites them.
"""

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, unquote

from filelock import FileLock

from mlim.errors import InputError
from mlim.files import atomic_file

if TYPE_CHECKING:
    from sqlalchemy import Connection

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


def database(uri: str, project: Path = Path()) -> Path:
    """The file that an address names, absolute; a relative one counts from the folder `project`."""
    return (project / uri.removeprefix(SQLITE).partition("?")[0]).absolute()


def locked(path: Path) -> FileLock:
    """The lock of everyone who changes the database as a whole."""
    return FileLock(f"{path}.lock")


def make(path: Path) -> None:
    """Make the database with all its tables, unless there is one; a file is at `path` only when it is complete.

    The caller holds the lock, so that whatever lies there unfinished was left by a process that was killed.
    """
    for left in path.parent.glob(f".{path.name}.*.tmp*"):
        left.unlink()
    if path.is_file() and path.stat().st_size:
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with atomic_file(path) as temporary:
        place = (path.parent / ARTIFACTS).as_uri()
        store = SqlAlchemyStore(address(temporary), place)  # type: ignore[no-untyped-call]
        store.engine.dispose()


def schema(path: Path) -> tuple[str | None, str]:
    """The version of a database's tables (None: it has none yet), and the one that the MLflow installed here needs.

    The database is only read: MLflow itself would make or change tables when it opens one.
    """
    from mlflow.store.db.utils import _get_latest_schema_revision

    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        found = None
    return (str(found[0]) if found else None), str(_get_latest_schema_revision())  # type: ignore[no-untyped-call]


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
    found = {Path(place) for name, location in _locations(path) for place in _place_of(name, location)}
    return sorted(place for place in found if place.resolve() != path.parent.resolve())


def artifact_folders(path: Path) -> dict[str, Path]:
    """Where the experiments of a database keep their artifacts on this machine, by the experiment's name."""
    return {
        name: Path(unquote(location.removeprefix(FILE)))
        for name, location in _locations(path)
        if location.startswith((FILE, "/"))
    }


def _locations(path: Path) -> list[tuple[str, str]]:
    """Name and artifact location of every experiment that is not deleted; none where there is no store yet."""
    if not path.is_file():
        return []
    active = "SELECT name, COALESCE(artifact_location, '') FROM experiments WHERE lifecycle_stage = 'active'"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(active).fetchall()
    except sqlite3.Error:
        return []


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
    from sqlalchemy import create_engine

    engine = create_engine(address(path))
    with engine.begin() as connection:
        changed = rewrite(
            connection,
            [
                (f"{old.as_uri()}/{ARTIFACTS}/", f"{path.parent.as_uri()}/{ARTIFACTS}/"),
                (f"{old}/{ARTIFACTS}/", f"{path.parent}/{ARTIFACTS}/"),
            ],
        )
    engine.dispose()
    return changed


def rewrite(connection: "Connection", beginnings: Sequence[tuple[str, str]]) -> int:
    """Let every address of an artifact that begins with the first of a pair begin with its second; gives how many."""
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
    from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLoggedModel, SqlRun
    from sqlalchemy import func, update

    columns = {
        SqlExperiment: ("artifact_location",),
        SqlRun: ("artifact_uri",),
        SqlLoggedModel: ("artifact_location",),
        SqlModelVersion: ("source", "storage_location"),
    }
    changed = 0
    for table, name in ((table, name) for table, names in columns.items() for name in names):
        column = getattr(table, name)
        for before, after in beginnings:
            values = {name: after + func.substr(column, len(before) + 1)}
            found = update(table).where(column.startswith(before, autoescape=True)).values(values)
            changed += connection.execute(found).rowcount
    return changed

"""A store of runs and models that outgrows its sqlite file: all of it, copied into the database of a tracking server.

MLflow has no command for this. Both databases have the same tables once both are at the same version of its schema, so
the rows are copied table by table, in one transaction: the target holds everything afterwards, or what it held before.
Artifacts stay where they are; their addresses may be rewritten to those that the server hands out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlim.errors import InputError, MlimError
from mlim.local_store import ARTIFACTS, address, rewrite

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, MetaData, Table

VERSION_TABLE: Final = "alembic_version"
OF_A_NEW_STORE: Final = {"experiments": 1, "workspaces": 1}  # rows that MLflow itself puts into a new database
SERVED: Final = "mlflow-artifacts:"  # the scheme of artifacts that a tracking server hands out
ROWS_PER_CALL: Final = 1000


def copy_store(source: Path, target: str, served: bool = False) -> dict[str, int]:
    """Copy all runs, metrics, models and tags of a sqlite file into an empty MLflow database; gives rows by table.

    `served`: artifacts that lie beside the file get addresses of the tracking server, which then has to be started
    with `--artifacts-destination` at that folder. The source is only read. `InputError` when the source is missing, the
    two are of different versions of MLflow's schema, or the target holds runs already; nothing is changed then.
    """
    from sqlalchemy import MetaData
    from sqlalchemy.exc import SQLAlchemyError

    if not source.is_file():
        raise InputError(f"{source} is missing; give the file of the store of runs (mlflow.db)")
    engines = _engine(address(source.absolute())), _engine(target)
    shown = engines[1].url.render_as_string(hide_password=True)
    try:
        with engines[0].connect() as reading, engines[1].begin() as writing:
            tables = MetaData(), MetaData()
            for metadata, connection in zip(tables, (reading, writing), strict=True):
                metadata.reflect(connection)
            _check_versions(reading, writing, tables, shown)
            _check_empty(writing, tables[1], shown)
            copied = dict(_copy(reading, writing, tables))
            if served:
                _serve_artifacts(writing, source.absolute())
        return copied
    except SQLAlchemyError as error:
        raise MlimError(f"{shown}: {str(error).splitlines()[0]}; nothing was copied") from error
    finally:
        for engine in engines:
            engine.dispose()


def _engine(uri: str) -> "Engine":
    """A database by its address; `InputError` when it is none, or its driver is not installed."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError

    try:
        return create_engine(uri)
    except ModuleNotFoundError as error:
        raise InputError(f"ADDRESS: {error}; for PostgreSQL `pip install 'mlim[postgresql]'`") from None
    except ArgumentError as error:
        raise InputError(f"ADDRESS is no address of a database ({error}); write postgresql://USER@HOST/NAME") from None


def _check_versions(
    reading: "Connection", writing: "Connection", tables: "tuple[MetaData, MetaData]", shown: str
) -> None:
    found = [_version(connection, metadata) for connection, metadata in zip((reading, writing), tables, strict=True)]
    if found[0] != found[1] or found[0] is None:
        raise InputError(
            f"the schema of the file is version {found[0]}, that of {shown} is {found[1]}; run `mlflow db upgrade "
            "ADDRESS` on both, with the same MLflow"
        )


def _version(connection: "Connection", metadata: "MetaData") -> str | None:
    from sqlalchemy import select

    table = metadata.tables.get(VERSION_TABLE)
    return None if table is None else connection.execute(select(table.c.version_num)).scalar()


def _check_empty(writing: "Connection", metadata: "MetaData", shown: str) -> None:
    """`InputError` when somebody has tracked there already."""
    for name in ("runs", "registered_models", *OF_A_NEW_STORE):
        if name in metadata.tables and _count(writing, metadata.tables[name]) > OF_A_NEW_STORE.get(name, 0):
            raise InputError(f"{shown} is in use: its table {name} has rows; give a new database")


def _count(connection: "Connection", table: "Table") -> int:
    from sqlalchemy import func, select

    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _copy(
    reading: "Connection", writing: "Connection", tables: "tuple[MetaData, MetaData]"
) -> Iterator[tuple[str, int]]:
    """All rows, tables that others refer to first; gives the number of each table that has any."""
    there = [table for table in tables[1].sorted_tables if table.name != VERSION_TABLE]
    for name in OF_A_NEW_STORE:
        if name in tables[1].tables:
            writing.execute(tables[1].tables[name].delete())
    for table in there:
        rows = 0
        for part in _rows(reading, tables[0].tables[table.name]):
            writing.execute(table.insert(), part)
            rows += len(part)
        if rows:
            _continue_numbers(writing, table)
            yield table.name, rows


def _rows(reading: "Connection", table: "Table") -> Iterator[list[dict[str, Any]]]:
    from sqlalchemy import select

    for part in reading.execute(select(table)).mappings().partitions(ROWS_PER_CALL):
        yield [dict(row) for row in part]


def _continue_numbers(writing: "Connection", table: "Table") -> None:
    """Let numbers that PostgreSQL gives to new rows continue after the copied ones."""
    from sqlalchemy import text

    if writing.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        name = writing.execute(
            text("SELECT pg_get_serial_sequence(:table, :column)"),
            {"table": f'"{table.name}"', "column": column.name},
        ).scalar()
        if name is not None:
            last = f'SELECT setval(:name, (SELECT COALESCE(MAX("{column.name}"), 0) + 1 FROM "{table.name}"), false)'  # noqa: S608 - names of MLflow's schema
            writing.execute(text(last), {"name": name})


def _serve_artifacts(writing: "Connection", source: Path) -> None:
    """Addresses below the folder beside the file become those that a tracking server hands out."""
    folder = source.parent / ARTIFACTS
    rewrite(writing, [(f"{folder.as_uri()}/", f"{SERVED}/"), (f"{folder}/", f"{SERVED}/")])

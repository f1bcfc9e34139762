"""Tables of pairs, read and written a part at a time: Parquet with its types, everything else as texts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlim.catalog.rejection import Rejection
from mlim.errors import InputError
from mlim.files import PLAIN_CELL, atomic_file, csv_cell, csv_line
from mlim.sources.lines import UTF8
from mlim.sources.readers import PARQUET, TableFile

SIDES: Final = ("item_a", "item_b")
ROWS_AT_ONCE: Final = 1 << 16
CSV: Final = ".csv"
CSV_DECIMALS: Final = 6
CELLS_REMEMBERED: Final = 1 << 17
PLAIN: Final = f"^({PLAIN_CELL.pattern})?$"  # a cell that is written as it is


class PairRows(NamedTuple):
    """Rows of a table: an Arrow table in which item_a and item_b are strings, and what is wrong with some rows.

    `rejected` names rows by their number in `table`; they have no cells there.
    """

    table: Any
    rejected: Mapping[int, Rejection]


@dataclass(frozen=True)
class PairsTable:
    """A table with the columns item_a and item_b, and perhaps others."""

    path: Path

    def check(self, added: Iterable[str]) -> None:
        """`InputError` when it is no table of pairs, or already has one of the columns that are to be `added`."""
        if not self.path.is_file():
            raise InputError(f"--pairs {self.path}: no such file; give a table with the columns {', '.join(SIDES)}")
        file = self._file
        file.check()
        columns = file.columns()
        missing = [name for name in SIDES if name not in columns]
        if missing:
            raise InputError(
                f"--pairs {self.path}: lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
                f"{', '.join(columns)}"
            )
        if twice := file.repeated_columns():
            raise InputError(f"--pairs {self.path}: has the column `{twice[0]}` twice; rename one of them")
        taken = [name for name in added if name in columns]
        if taken:
            raise InputError(f"--pairs {self.path}: already has the columns {', '.join(taken)}; rename or drop them")

    @property
    def is_parquet(self) -> bool:
        """Whether cells have types."""
        return self._file.kind == PARQUET

    def schema(self) -> Any:
        """The Arrow schema of its batches."""
        if not self.is_parquet:
            return pa.schema([(name, pa.string()) for name in self._file.columns()])
        found = pq.read_schema(self.path)
        fields = [pa.field(field.name, pa.string()) if field.name in SIDES else field for field in found]
        return pa.schema(fields)

    def batches(self) -> Iterator[PairRows]:
        """The rows in order, some thousands at a time; `InputError` when the file cannot be read to its end."""
        yield from self._typed() if self.is_parquet else self._texts()

    @property
    def _file(self) -> TableFile:
        return TableFile(self.path, self.path.name, UTF8)

    def _typed(self) -> Iterator[PairRows]:
        try:
            for batch in pq.ParquetFile(self.path).iter_batches(ROWS_AT_ONCE):
                table = pa.Table.from_batches([batch])
                for side in SIDES:
                    texts = table[side].cast(pa.string())
                    table = table.set_column(table.schema.get_field_index(side), side, texts)
                yield PairRows(table.replace_schema_metadata(None), {})
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"--pairs {self.path}: cannot be read ({error})") from None

    def _texts(self) -> Iterator[PairRows]:
        columns = self._file.columns()
        records = self._file.records(columns)
        while batch := list(islice(records, ROWS_AT_ONCE)):
            rejected = {place: record for place, record in enumerate(batch) if isinstance(record, Rejection)}
            empty = [None] * len(columns)
            rows = [empty if isinstance(record, Rejection) else record for record in batch]
            cells = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(columns))]
            yield PairRows(pa.table(dict(zip(columns, cells, strict=True))), rejected)


def check_out(path: Path, force: bool = False) -> None:
    """`InputError` unless a table may be written at `path`."""
    if path.suffix.lower() not in (CSV, PARQUET):
        raise InputError(f"--out {path}: the name must end in {PARQUET} or {CSV}")
    if path.is_dir() or (path.exists() and not force):
        raise InputError(f"--out {path}: exists already; choose another --out or add --force")


def write_table(path: Path, schema: Any, tables: Iterable[Any]) -> None:
    """Write Arrow tables one after another as Parquet or CSV, by the name's end; atomically.

    In CSV, lists are joined and numbers have six decimals; what a spreadsheet would compute is marked as text.
    """
    if path.suffix.lower() == CSV:
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as target:
            target.writelines(_csv_lines(schema.names, tables))
        return
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)


def _csv_lines(names: Iterable[str], tables: Iterable[Any]) -> Iterator[str]:
    """The file that `write_csv` writes, made column by column: most texts come more than once."""
    written = lru_cache(CELLS_REMEMBERED)(lambda value: csv_cell(_cell(value)))
    yield csv_line([*names])
    for table in tables:
        columns = [_csv_cells(column, written) for column in table.columns]
        yield from (",".join(cells) + "\n" for cells in zip(*columns, strict=True))


def _csv_cells(column: Any, written: Callable[[Any], str]) -> list[str]:
    kind = column.type
    if pa.types.is_string(kind) and pc.all(pc.match_substring_regex(filled := pc.fill_null(column, ""), PLAIN)).as_py():
        return list(filled.to_pylist())
    values = column.to_pylist()
    if pa.types.is_floating(kind):
        return ["" if value is None or value != value else repr(round(value, CSV_DECIMALS)) for value in values]
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return ["" if value is None else str(_cell(value)) for value in values]
    if pa.types.is_string(kind):
        return [written(value) for value in values]
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return [written(None if value is None else tuple(value)) for value in values]
    return [csv_cell(_cell(value)) for value in values]


def _cell(value: Any) -> Any:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return round(value, CSV_DECIMALS)
        case list() | tuple():
            return "; ".join(map(str, value))
        case _:
            return value

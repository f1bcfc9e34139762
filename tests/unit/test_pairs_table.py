"""Tables of pairs as CSV: the same bytes that rows one by one would be."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.files import write_csv
from mlim.matching.pairs_table import write_table

TEXTS = st.none() | st.text(max_size=4) | st.sampled_from(["", "=1+1", "a,b", 'say "hi"', "two\r\nlines", "'-", "ö"])
NUMBERS = st.none() | st.floats(allow_infinity=False)
SCHEMA: Any = pa.schema(
    [
        ("id", pa.string()),
        ("ways", pa.list_(pa.string())),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("match", pa.bool_()),
    ]
)
ROWS = st.tuples(
    TEXTS, st.none() | st.lists(TEXTS.filter(bool)), st.none() | st.integers(-9, 9), NUMBERS, st.none() | st.booleans()
)


def plain(value: Any) -> Any:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return round(value, 6)
        case list():
            return "; ".join(value)
    return value


@settings(max_examples=50)
@given(st.lists(ROWS))
def test_columns_give_the_bytes_that_rows_give(rows: list[tuple[Any, ...]]) -> None:
    table = pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], schema=SCHEMA)
    with TemporaryDirectory() as folder:
        one, other = Path(folder) / "one.csv", Path(folder) / "other.csv"
        write_table(one, SCHEMA, [table.slice(0, 2), table.slice(2)])
        cells = [{name: plain(value) for name, value in row.items()} for row in table.to_pylist()]
        write_csv(other, cells, SCHEMA.names)
        assert one.read_bytes() == other.read_bytes()

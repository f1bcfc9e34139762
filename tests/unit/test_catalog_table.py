import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.catalog.table import as_text, column_names, read_table
from mlim.errors import InputError


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(path):
    return read_table(path, column_names(path)).to_dict("list")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "id,b\n007,NA\n010,\n"),
        ("t.csv", b"\xef\xbb\xbfid,b\r\n007,NA\r\n010,\r\n"),
        ("t.csv", 'id,b\n"007","NA"\n\n010\n'),
        ("t.tsv", "id\tb\n007\tNA\n010\t\n"),
        ("t.jsonl", '{"id": "007", "b": "NA"}\n{"id": "010", "b": null}\n'),
        ("t.ndjson", b'\xef\xbb\xbf{"id": "007", "b": "NA"}\n\n{"id": "010"}\n'),
    ],
)
def test_every_format_reads_as_the_same_text(tmp_path, name, content):
    assert cells(written(tmp_path, name, content)) == {"id": ["007", "010"], "b": ["NA", ""]}


def test_parquet_reads_as_text(tmp_path):
    frame = pd.DataFrame({"id": ["007", "NA"], "n": [1, 2], "f": [3.0, None], "b": [True, False]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert cells(tmp_path / "t.parquet") == {
        "id": ["007", "NA"], "n": ["1", "2"], "f": ["3", ""], "b": ["true", "false"],
    }  # fmt: skip


def test_json_numbers_stay_as_written(tmp_path):
    path = written(tmp_path, "t.jsonl", '{"a": 1.10, "b": 12345678901234567890, "c": ["x", 2], "d": false}\n')
    assert cells(path) == {"a": ["1.10"], "b": ["12345678901234567890"], "c": ["x, 2"], "d": ["false"]}


def test_only_the_wanted_columns_and_rows_in_the_wanted_order(tmp_path):
    path = written(tmp_path, "t.csv", "a,b,c\n1,2,3\n4,5,6\n")
    frame = read_table(path, ["c", "a"], rows=1)
    assert frame.to_dict("list") == {"c": ["3"], "a": ["1"]}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "a,b\n", "no rows"),
        ("t.jsonl", "\n", "is empty"),
        ("t.csv", b"a,b\n1,\xe9\n", "not UTF-8"),
        ("t.csv", "a,b\n1,2\n3,4,5\n", "line 3 has 3 cells, the header 2"),
        ("t.csv", 'a,b\n"1,2\n', "cannot be read as .csv"),
        ("t.csv", "a,b,a\n1,2,3\n", "`a` more than once"),
        ("t.jsonl", '{"a": 1}\n{"a"\n', "line 2 is not JSON"),
        ("t.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("t.parquet", "PAR?", "cannot be read as .parquet"),
        ("t.xlsx", "x", "must end in .csv"),
    ],
)
def test_an_unusable_table_is_one_sentence(tmp_path, name, content, told):
    path = written(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        cells(path)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)


def test_a_missing_table(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        column_names(tmp_path / "t.csv")


def test_half_a_surrogate_pair_can_still_be_stored(tmp_path):
    path = written(tmp_path, "t.jsonl", '{"a": "x\\ud800"}\n')
    assert cells(path) == {"a": ["x?"]}


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
)
def test_any_value_becomes_storable_text(value):
    as_text(value).encode("utf-8")

import csv
import gzip
import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.errors import InputError
from mlim.pictures.folder import FolderPictures
from mlim.sources.table import TableSource, column_names, read_table
from mlim.sources.text import as_text


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
    ("name", "content", "message"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "a,b\n", "no rows"),
        ("t.jsonl", "\n", "is empty"),
        ("t.csv", b"a,b\n1,\xe9\n", "line 2 has bytes that are not utf-8"),
        ("t.csv", b"\xe9,b\n1,2\n", "the header has bytes that are not utf-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "`encoding: utf-16`"),
        ("t.jsonl", '{"a": 1}\n'.encode("utf-16"), "`encoding: utf-16`"),
        ("t.csv", "a,b\n1,2\n3,4,5\n", "line 3: 3 cells, but the header has 2"),
        ("t.csv", 'a,b\n1,2\n3,"4\n5\n7\n', "a quote that opens in line 3 is never closed"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-6], "broken gzip"),
        ("t.csv.gz", b"a,b\n1,2\n", "broken gzip"),
        ("t.csv", "a,b,a\n1,2,3\n", "`a` more than once"),
        ("t.jsonl", '{"a": 1}\n{"a"\n', "line 2 is not JSON"),
        ("t.jsonl", '[1]\n{"a": 1}\n', "line 1 is not a JSON object"),
        ("t.parquet", "PAR?", "cannot be read as .parquet"),
        ("t.xlsx", "x", "must end in .csv"),
    ],
)
def test_an_unusable_table_is_one_sentence(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        cells(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


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


def source(place, encoding="utf-8", image="image", images=None):
    return TableSource.open(place, encoding, image, FolderPictures(images or place.parent, 10_000), 10_000)


def read(opened, columns):
    return [(row.source, row.row, dict(row.cells), row.problem and row.problem.reason) for row in opened.rows(columns)]


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        ("t.csv", b"a,b\n1,2\n3,4,5\n6\n", [None, "too-many-cells", None]),
        ("t.csv", b"a,b\n1,\xfc\n3,\xc3\xbc\n", ["not-in-encoding", None]),
        ("t.csv", b"a,b\n1,x\x00y\n3,4\n", ["nul-byte", None]),
        ("t.csv", b'a,b\n"1\n"x,2\n3,4\n', ["broken-line", None]),
        ("t.jsonl", b'{"a": 1}\n{"a": \n{"a": 3}\n{"a"', [None, "broken-line", None, "broken-line"]),
        ("t.jsonl", b'[1]\n{"a": "x\\u0000"}\n{"a": "\\\\u0000"}\n', ["broken-line", "nul-byte", None]),
        ("t.jsonl", b'{"a": "\xfc"}\n{"a": "\xc3\xbc"}\n', ["not-in-encoding", None]),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_row_that_cannot_be_read_is_refused_and_the_next_is_read(tmp_path, name, content, reasons, zipped):
    path = written(tmp_path, f"{name}.gz" if zipped else name, gzip.compress(content) if zipped else content)
    found = read(source(path), ["a"])
    assert [reason for *_, reason in found] == reasons
    assert [(name, row) for name, row, *_ in found] == [(path.name, row) for row in range(1, len(reasons) + 1)]


def test_a_windows_1252_table_is_read_when_the_description_says_so(tmp_path):
    path = written(tmp_path, "t.csv", "a,b\n1,Größe\n".encode("windows-1252"))
    [(*_, reason)] = read(source(path), ["b"])
    assert reason == "not-in-encoding"
    assert read(source(path, "windows-1252"), ["b"]) == [("t.csv", 1, {"b": "Größe"}, None)]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [("klingon", "there is no encoding `klingon`"), ("hex", "`hex` is no encoding of text"), ("a\0b", "no encoding")],
)
def test_an_encoding_that_is_none(tmp_path, encoding, message):
    path = written(tmp_path, "t.csv", "a,b\n1,2\n")
    with pytest.raises(InputError, match=message):
        read(source(path, encoding), ["b"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf8", "UTF_8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, encoding):
    path = written(tmp_path, "t.csv", b"\xef\xbb\xbfa,b\n1,2\n")
    assert read(source(path, encoding), ["a"]) == [("t.csv", 1, {"a": "1"}, None)]


def test_utf_16_is_read_when_the_description_says_so_and_never_as_something_else(tmp_path):
    path = written(tmp_path, "t.csv", "a,b\n1,ü\n".encode("utf-16"))
    assert read(source(path, "utf-16"), ["b"]) == [("t.csv", 1, {"b": "ü"}, None)]
    with pytest.raises(InputError, match="is UTF-16 text"):
        source(path, "windows-1252").columns()


def test_a_refusal_names_all_lines_of_its_row_and_what_to_try(tmp_path):
    path = written(tmp_path, "t.csv", b'a,b,c\n1,"x\n2"y\n3,z\n4,\xfc\n')
    first, _, second = source(path).rows(["a"])
    assert first.problem.detail.startswith("lines 2 to 3: no row can be read")
    assert second.problem.detail.startswith("line 5 has bytes that are not utf-8")
    assert "`encoding: windows-1252`" in second.problem.detail


def test_scripts_of_all_kinds_survive(tmp_path):
    texts = ["👗🏽\u200d♀️", "\u05e9\u05b4\u05c2 \u202b\u05dd\u202c", "فستان", "ｶﾞ", "e\u0301", "\U0001f1e9\U0001f1ea"]
    path = written(tmp_path, "t.csv", "a\n" + "\n".join(texts) + "\n")
    assert cells(path) == {"a": texts}


def test_a_line_as_long_as_a_bomb_is_no_line(tmp_path, monkeypatch):
    monkeypatch.setattr("mlim.sources.lines.LONGEST_LINE", 1000)
    path = written(tmp_path, "t.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": "' + b"x" * 5000))
    with pytest.raises(InputError, match="line 2 has more than 1000 characters"):
        read(source(path), ["a"])


@pytest.mark.parametrize("nested", [b"[" * 1000 + b"]" * 1000, b"[" * 90_000, b'{"b":' * 90_000])
def test_lists_in_lists_cost_only_their_row(tmp_path, nested):
    path = written(tmp_path, "t.jsonl", b'{"a": ' + nested + b'}\n{"a": 1}\n')
    assert [reason for *_, reason in read(source(path), ["a"])] == ["broken-line", None]


def test_parquet_text_that_is_not_utf_8_costs_only_its_row(tmp_path):
    values = pa.array([b"1", b"\xff", "ü".encode()]).view(pa.string())
    pq.write_table(pa.table({"a": values, "b": pa.array(["x", "y\0", "z"])}), tmp_path / "t.parquet")
    opened = source(tmp_path / "t.parquet")
    assert [reason for *_, reason in read(opened, ["a"])] == [None, "not-in-encoding", None]
    assert [reason for *_, reason in read(opened, ["b"])] == [None, "nul-byte", None]


def test_parquet_values_that_python_has_no_type_for_are_text(tmp_path):
    table = pa.table(
        {
            "time": pa.array([2**62, 0], pa.timestamp("us")),
            "kind": pa.array(["x", None]).dictionary_encode(),
            "list": pa.array([["a", "b"], []]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (*_, first, _), second = read(source(tmp_path / "t.parquet"), ["time", "kind", "list"])
    assert (first["kind"], first["list"]) == ("x", "a, b")
    assert first["time"]
    assert second[2] == {"time": "1970-01-01 00:00:00", "kind": "", "list": ""}


def test_a_cell_of_ten_megabytes_does_not_break_the_reader(tmp_path):
    path = written(tmp_path, "t.csv", "a,b\n1," + "x" * 10_000_000 + "\n2,y\n")
    assert [len(cells["b"]) for _, _, cells, _ in read(source(path), ["b"])] == [10_000_000, 1]


def test_a_damaged_parquet_stops_the_run(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [str(n) for n in range(5000)]}).to_parquet(path)
    data = bytearray(path.read_bytes())
    data[4:4000] = bytes(3996)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read as \.parquet"):
        read(source(path), ["a"])


def test_every_file_needs_the_columns_that_are_read_and_no_others(tmp_path):
    written(tmp_path, "1.csv", "a,b,colour\n1,2,red\n")
    written(tmp_path, "2.csv", "b,a,color\n4,3,blue\n")
    opened = source(tmp_path / "*.csv")
    assert opened.columns() == ["a", "b", "colour", "color"]
    assert [cells for _, _, cells, _ in read(opened, ["a", "b"])] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    with pytest.raises(InputError, match=r"2\.csv: has no column `colour` \(did you mean `color`\?\)"):
        next(opened.rows(["a", "colour"]))


def test_objects_may_leave_keys_out_that_other_files_have(tmp_path):
    written(tmp_path, "1.jsonl", '{"a": 1, "b": 2}\n')
    written(tmp_path, "2.jsonl", '{"a": 3}\n')
    assert [cells["b"] for _, _, cells, _ in read(source(tmp_path / "*.jsonl"), ["a", "b"])] == ["2", ""]


def test_a_pattern_reads_files_by_name_and_tells_them_from_its_fixed_folder(tmp_path):
    folder = tmp_path / "shoes [2024]"
    for place in ("b/2.csv", "a/1.csv", "a/10.csv"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        written(folder, place, f"a\n{place}\n")
    assert [row[0] for row in read(source(folder / "*" / "*.csv"), ["a"])] == ["a/1.csv", "a/10.csv", "b/2.csv"]
    assert [row[0] for row in read(source(folder / "a" / "1.csv"), ["a"])] == ["1.csv"]
    with pytest.raises(InputError, match="no file matches"):
        source(folder / "*.tsv")


def test_the_state_changes_with_the_files(tmp_path):
    path = written(tmp_path, "1.csv", "a\n1\n")
    opened = source(tmp_path / "*.csv")
    before = opened.state()
    assert opened.state() == before
    written(tmp_path, "1.csv", "a\n1\n2\n")
    changed = opened.state()
    path.unlink()
    assert len({before, changed, opened.state()}) == 3


NAMES = ("id", "b", "c")
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
ROWS = st.lists(st.tuples(TEXT.filter(bool), TEXT, TEXT), min_size=1, max_size=9)


def encode(rows, kind):
    target = io.StringIO()
    if kind == "csv":
        writer = csv.writer(target, lineterminator="\r\n")
        writer.writerows([NAMES, *rows])
    else:
        target.writelines(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows)
    return target.getvalue().encode()


@settings(deadline=None, max_examples=60)
@given(
    rows=ROWS, kind=st.sampled_from(["csv", "jsonl", "parquet"]), zipped=st.booleans(), parts=st.sampled_from([1, 3])
)
def test_whatever_is_written_in_any_format_and_number_of_files_is_read_back(
    tmp_path_factory, rows, kind, zipped, parts
):
    folder = tmp_path_factory.mktemp("table")
    suffix = ".gz" if zipped and kind != "parquet" else ""
    expected = []
    for number in range(parts):
        part = rows[number::parts]
        name = f"{number}.{kind}{suffix}"
        expected += [(name, row, dict(zip(NAMES, cells, strict=True)), None) for row, cells in enumerate(part, 1)]
        if kind == "parquet":
            pd.DataFrame(part, columns=list(NAMES), dtype="str").to_parquet(folder / name)
        elif part:
            written(folder, name, gzip.compress(encode(part, kind)) if suffix else encode(part, kind))
    assert read(source(folder / f"*.{kind}{suffix}"), NAMES) == expected


@pytest.mark.parametrize(
    "content", ['[{"a": 1}, {"a": 2}]', '[\n{"a": 1},\n{"a": 2}\n]\n', '\n [\n  {\n  "a": 1\n }\n]', '[ {"a"']
)
def test_a_json_list_is_told_from_json_lines(tmp_path, content):
    """Point 5: a list on one line, or indented, gets its own sentence."""
    with pytest.raises(InputError, match="is one JSON list, not JSON lines; write one object per line"):
        column_names(written(tmp_path, "t.jsonl", content))


@pytest.mark.parametrize("around", [{}, {"total": 1, "page": 1}])
def test_an_object_around_all_rows_is_reported(tmp_path, around):
    """Point 5: what an API answers is no row of one column."""
    row = {"id": "1", "title": "a", "photo": "1.jpg", "family": "p"}
    (tmp_path / "t.jsonl").write_text(json.dumps({"products": [row], **around}))
    with pytest.raises(InputError, match="is one JSON object with all rows in `products`; write one object per line"):
        column_names(tmp_path / "t.jsonl")


def test_one_row_may_hold_a_list_of_objects(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "1", "title": "a", "images": [{"url": "1.jpg", "alt": "x"}]}))
    assert column_names(tmp_path / "t.jsonl") == ["id", "title", "images"]


@pytest.mark.parametrize("content", ['{\n  "a": 1\n}\n', "id,title\n1,x\n"])
def test_lines_that_are_no_objects_are_not_called_empty(tmp_path, content):
    """Point 5: the first line's own fault is told."""
    with pytest.raises(InputError, match="holds no JSON object: line 1 is not JSON"):
        column_names(written(tmp_path, "t.jsonl", content))

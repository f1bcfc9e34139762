"""What a quote means, which delimiter a table has, and that no row is merged with another or lost."""

import csv
import gzip
import io
import re

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlim.catalog.rejection import Rejection
from mlim.errors import InputError, MlimError
from mlim.pictures.folder import FolderPictures
from mlim.sources import lines as text_lines
from mlim.sources.dialect import LOOK_AHEAD, RecordReader, find_delimiter
from mlim.sources.table import TableSource, read_table, table_files

NAMES = ("id", "title", "colour", "photo")


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def source(place, delimiter=None):
    return TableSource.open(place, "utf-8", "photo", FolderPictures(place.parent, 10_000), 10_000, delimiter)


def rows(path, columns=NAMES, delimiter=None):
    """The cells of each row, or the sentence why there are none."""
    return [
        row.problem.detail if row.problem else list(row.cells.values()) for row in source(path, delimiter).rows(columns)
    ]


def shop(count, delimiter=","):
    """A table of `count` rows without a quote, as lines."""
    header = delimiter.join(NAMES)
    return [header, *(delimiter.join([f"A{n}", f"lamp {n}", "red", f"{n}.jpg"]) for n in range(count))]


def spoilt(lines, changes):
    """The lines with the word `lamp N` of some rows written as `changes` say."""
    return [re.sub(r"lamp (\d+)", lambda found: changes.get(int(found[1]), found[0]), line) for line in lines]


@pytest.mark.parametrize(("name", "delimiter"), [("t.tsv", "\t"), ("t.csv", ","), ("t.csv", ";"), ("t.tsv.gz", "|")])
def test_two_stray_quotes_merge_no_rows(tmp_path, name, delimiter):
    """Point 1: rows between two stray quotes stay rows; the two lines with the quotes are refused and named."""
    lines = spoilt(shop(12, delimiter), {3: '"lamp 3', 8: 'lamp 8"'})
    content = "\n".join(lines).encode()
    path = written(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    found = rows(path)
    assert len(found) == 12
    assert [number for number, row in enumerate(found) if isinstance(row, str)] == [3, 8]
    assert found[3].startswith("line 5: a quote opens before 'lamp 3")
    assert "closes in line 10" in found[3]
    assert found[8].startswith("line 10: ")
    assert [row for row in found if not isinstance(row, str)] == [
        [f"A{n}", f"lamp {n}", "red", f"{n}.jpg"] for n in range(12) if n not in (3, 8)
    ]


@pytest.mark.parametrize(
    "title",
    [
        '"lamp',
        'lamp"',
        'lamp 12" wide',
        '"soft" lamp',
        'a "b" c',
        '""',
        '"',
        '""lamp',
        'lamp""',
        '"a""b',
        '"soft"lamp"',
    ],
)
@pytest.mark.parametrize("place", [0, 5, 9])
def test_a_quote_that_encloses_no_whole_cell_is_a_character(tmp_path, title, place):
    """Point 1: a lone quote costs nobody a row, wherever it stands."""
    path = written(tmp_path, "t.csv", "\n".join(spoilt(shop(10), {place: title})) + "\n")
    expected = [[f"A{n}", f"lamp {n}", "red", f"{n}.jpg"] for n in range(10)]
    expected[place][1] = "" if title == '""' else title
    assert rows(path) == expected


def test_a_lone_quote_far_above_the_end_costs_nothing(tmp_path):
    """Point 1: behind enough lines that look like rows a quote is a character, whatever comes later."""
    count = 3 * LOOK_AHEAD
    path = written(tmp_path, "t.csv", "\n".join(spoilt(shop(count), {2: '"lamp', count - 2: 'lamp"'})))
    found = rows(path)
    assert [row[1] for row in found] == [
        {2: '"lamp', count - 2: 'lamp"'}.get(number, f"lamp {number}") for number in range(count)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines",
        "red, soft\nwarm, nice",
        "a\r\nb\rc\n\nd",
        'a "quoted"\nword',
        "soft, warm\nand red, and blue\nwool, silk, linen",
        "\n" * 200,
        "one line of many\n" * 3 * LOOK_AHEAD,
    ],
)
@pytest.mark.parametrize("column", range(4))
def test_a_cell_of_several_lines_is_read_whole(tmp_path, text, column):
    """Point 1: what looks like sentences is one cell, in every column, and the summary says how many there were."""
    row = ["A1", "lamp", "red", "1.jpg"]
    row[column] = text
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows([NAMES, row, ["A2", "vase", "blue", "2.jpg"]])
    opened = source(written(tmp_path, "t.csv", target.getvalue()))
    assert [list(found.cells.values()) for found in opened.rows(NAMES)] == [row, ["A2", "vase", "blue", "2.jpg"]]
    assert opened.report() == {"rows over several lines": 1}


def test_a_cell_that_reads_as_two_rows_is_refused_with_both_lines(tmp_path):
    """Point 1: where nobody can tell one row from two, both lines are quarantined and neither becomes an item."""
    path = written(tmp_path, "t.csv", 'id,title,photo\n1,"a,b\nc,d",1.jpg\n2,e,2.jpg\n')
    first, second, third = rows(path, ("id", "title", "photo"))
    assert first.startswith("line 2: a quote opens")
    assert second.startswith("line 3: a quote opens")
    assert third == ["2", "e", "2.jpg"]


def test_a_row_of_several_lines_that_misfits_the_header_is_refused_as_one(tmp_path):
    """Point 1: a merged row is never filled up with empty cells."""
    path = written(tmp_path, "t.csv", 'id,title,colour,photo\n1,"a\nb"\n2,c,red,2.jpg\n')
    first, second = rows(path)
    assert first.startswith("lines 2 to 3: 2 cells, but a row has 4")
    assert second == ["2", "c", "red", "2.jpg"]


def test_quotes_that_enclose_a_delimiter_by_accident_are_refused(tmp_path):
    """Point 1: two stray quotes in one line merge no cells."""
    path = written(tmp_path, "t.csv", 'id,title,colour,photo\n1,"lamp,12",1.jpg\n2,c,red,2.jpg\n')
    first, second = rows(path)
    assert first.startswith("line 2: no row can be read")
    assert second == ["2", "c", "red", "2.jpg"]


def test_a_file_that_ends_inside_a_cell_stops_the_run(tmp_path):
    """Point 1: a cut file is no file of fewer rows."""
    path = written(tmp_path, "t.csv", 'id,title,colour,photo\n1,"a long\nstory that\nis cut')
    with pytest.raises(InputError, match="a quote that opens in line 2 is never closed"):
        rows(path)


@pytest.mark.parametrize("header", ['"id,title,colour,photo', 'id,"title,colour,photo'])
def test_a_stray_quote_in_the_header_is_reported(tmp_path, header):
    """Point 1: the header cannot swallow rows."""
    lines = [header, *spoilt(shop(5)[1:], {4: 'lamp"'})]
    with pytest.raises(InputError, match=r"a quote in the header opens lines 1 to 6; mend it"):
        rows(written(tmp_path, "t.csv", "\n".join(lines)))


def unquoted(cell):
    """What a cell means that was written without a thought of quotes."""
    whole = re.fullmatch(r'"((?:[^"]|"")*)"', cell)
    return whole[1].replace('""', '"') if whole else cell


WORDS = st.text('"a ', max_size=4).map(str.lstrip)


@settings(deadline=None, max_examples=150)
@given(table=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=12), delimiter=st.sampled_from(",;\t|"))
@example(table=[('"a', "b", "c"), ("d", "e", "f"), ('g"', "h", "i")], delimiter=",")
@example(table=[('"a', "b", '"c'), ("d", "e", 'f"')], delimiter="\t")
@example(table=[('"', '"', '"'), ('"', '"', '"')], delimiter=",")
def test_rows_joined_without_a_thought_of_quotes_are_never_merged_or_lost(table, delimiter):
    """Point 1: each line comes out as it was written, or refused; none is merged, moved or lost.

    Lines that are one row of valid CSV and hold nothing of others (`",","` twice: no delimiter in the cell that runs
    over them) are that row: nobody can know better.
    """
    lines = [delimiter.join(row) + "\n" for row in [("x", "y", "z"), *table]]
    reader = RecordReader(iter(lines), delimiter)
    (_, _, header), reader.width = next(iter(reader)), 3
    found = list(reader)
    assert header == ["x", "y", "z"]
    assert [line for start, end, _ in found for line in range(start, end + 1)] == list(range(2, 2 + len(table)))
    for start, end, cells in found:
        if end == start:
            assert isinstance(cells, Rejection) or cells == [unquoted(cell) for cell in table[start - 2]]
        elif not isinstance(cells, Rejection):
            assert [cells] == list(csv.reader(lines[start - 1 : end], delimiter=delimiter, strict=True))
            assert not any(delimiter in cell for cell in cells if "\n" in cell)


TEXTS = st.text('"a,\n\r; ', max_size=8).filter(lambda text: len(re.findall(r"\r\n|\r|\n", text)) < 2)


@settings(deadline=None, max_examples=150)
@given(
    table=st.lists(st.tuples(WORDS, TEXTS, WORDS), min_size=1, max_size=8),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_rows_of_a_csv_writer_are_read_back_or_refused(tmp_path_factory, table, quoting):
    """Point 1: valid CSV comes back as it was; a row that reads as two is refused in both its lines."""
    target = io.StringIO()
    csv.writer(target, quoting=quoting).writerows([("x", "y", "z"), *table])
    path = written(tmp_path_factory.mktemp("t"), "t.csv", target.getvalue())
    found = rows(path, ("x", "y", "z"), ",")
    kept = [row for row in found if not isinstance(row, str)]
    left = iter(list(row) for row in table)
    assert all(row in left for row in kept)  # in this order, none twice, none that was not written
    assert len(found) - len(kept) == 2 * (len(table) - len(kept))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1252"])
def test_the_lines_are_counted_a_second_time(tmp_path, monkeypatch, name, ends, encoding):
    """Point 1: a reader that leaves a line out is found out by a count that it has no part in."""
    lines = ["id,title", "1,a", "", '2,"b', 'c"'] if name == "t.csv" else ['{"id": 1}', "", '{"id": 2}']
    path = written(tmp_path, name, ends.join(lines).encode(encoding))
    [file] = table_files(path, encoding.removesuffix("-sig"))
    assert len(list(file.records(["id"]))) == 2
    bounded = text_lines.TextFile._bounded

    def forgetful(self, text):
        return (line for number, line in enumerate(bounded(self, text)) if number != 1)

    monkeypatch.setattr(text_lines.TextFile, "_bounded", forgetful)
    with pytest.raises(MlimError, match=f"holds {len(lines)} lines, but {len(lines) - 1} were read"):
        list(file.records(["id"]))


def test_the_rows_of_parquet_are_counted_a_second_time(tmp_path, monkeypatch):
    """Point 1: Parquet says itself how many rows it has."""
    from mlim.sources import parquet

    pd.DataFrame({"id": ["1", "2", "3"]}).to_parquet(tmp_path / "t.parquet")
    [file] = table_files(tmp_path / "t.parquet")
    assert list(file.records(["id"])) == [["1"], ["2"], ["3"]]
    opened = parquet.open_parquet

    class Forgetful:
        def __init__(self, path):
            self.file = opened(path)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def iter_batches(self, *args, **kwargs):
            return (batch.slice(1) for batch in self.file.iter_batches(*args, **kwargs))

    monkeypatch.setattr(parquet, "open_parquet", Forgetful)
    with pytest.raises(MlimError, match="holds 3 rows, but 2 were read"):
        list(file.records(["id"]))


# ---- delimiters ----


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_table_is_read_by_the_delimiter_it_has(tmp_path, delimiter, name, ends):
    """Point 7: the suffix does not decide, the lines do, whatever stands in the cells."""
    others = [other for other in (",", ";", "\t", "|") if other != delimiter]
    lines = spoilt(shop(8, delimiter), {n: f"lamp{others[n % 3]} no {n}" for n in range(6)})
    assert [row[1] for row in rows(written(tmp_path, name, ends.join(lines)))] == [
        *(f"lamp{others[n % 3]} no {n}" for n in range(6)),
        "lamp 6",
        "lamp 7",
    ]


@pytest.mark.parametrize("first", ["sep={}", "SEP={}", '"sep={}"', "sep={}{}{}"])
@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|", "^"])
def test_a_line_that_names_the_delimiter_is_obeyed_and_skipped(tmp_path, first, delimiter):
    """Point 7: `sep=;` in the first line is no header."""
    lines = [first.format(*[delimiter] * 3), *shop(3, delimiter)]
    path = written(tmp_path, "t.csv", b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert rows(path) == [[f"A{n}", f"lamp {n}", "red", f"{n}.jpg"] for n in range(3)]
    assert rows(written(tmp_path, "u.csv", "\n".join([first.format(*[";"] * 3), *shop(1, "~")])), NAMES, "~") == [
        ["A0", "lamp 0", "red", "0.jpg"]
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a;b,c;d", "1;2,5;3", "4;5,5;6"], ";"),  # decimal commas in every line, one in the header
        (["a,b", "1,2,3"], ","),
        (["a", "1,2", "1,2"], ","),
        (["a", "1;2"], ","),
        (['"a,b";"c\nd"', "1;2"], ";"),
        (["a;b", '"x, y, z";1', '"x, y";2'], ";"),
        (["", "", "a|b", "1|2"], "|"),
        ([], ","),
    ],
)
def test_what_the_first_lines_say_of_the_delimiter(lines, expected):
    """Point 7: a delimiter is what the header has and most lines repeat."""
    assert find_delimiter([f"{line}\n" for line in lines], ",") == expected


def test_surplus_delimiters_at_the_end_are_no_columns(tmp_path):
    """Point 7: `a;b;;` has two columns; a value below a name that is not there is refused."""
    path = written(tmp_path, "t.csv", "id;photo;;\n1;1.jpg;;\n2;2.jpg\n3;3.jpg;x;\n4;4.jpg;;;\n")
    assert source(path).columns() == ["id", "photo"]
    found = rows(path, ("id", "photo"))
    assert found[:2] == [["1", "1.jpg"], ["2", "2.jpg"]]
    assert found[2].startswith("line 4: 4 cells, but the header has 2")
    assert found[3].startswith("line 5: 5 cells, but the header has 2")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_delimiters_that_end_all_rows_but_not_the_header_are_no_cells(tmp_path, delimiter, ends):
    """Point 7: surplus delimiters count where most rows end in them; a row that a stray one shifts is still refused."""
    header, *lines = shop(8, delimiter)
    lines = [f"{line}{delimiter}" for line in spoilt(lines, {3: f"lamp{delimiter} 3", 5: '"a\nb"'})]
    lines[6] = lines[6].rstrip(delimiter)
    found = rows(written(tmp_path, "t.csv", ends.join([header, *lines])))
    assert [row[1] for row in found if not isinstance(row, str)] == [
        *(f"lamp {n}" for n in (0, 1, 2, 4)),
        "a\nb",
        "lamp 6",
        "lamp 7",
    ]
    assert found[3].startswith("line 5: 6 cells, but the header has 4")


def test_a_surplus_delimiter_in_a_few_rows_is_a_shift(tmp_path):
    """Point 7: where rows do not end so, a blank cell too many says that another delimiter moved the cells."""
    path = written(tmp_path, "t.csv", "\n".join([*shop(4), "A9,lamp, red,9.jpg,"]))
    assert rows(path)[4].startswith("line 6: 5 cells, but the header has 4")


def test_columns_that_nobody_reads_may_lack_a_name_or_share_one(tmp_path):
    """Point 7: blank and repeated names are an error only where they are used."""
    path = written(tmp_path, "t.csv", ",id,note,note,photo, \n0,1,x,y,1.jpg,\n")
    opened = source(path)
    assert opened.columns() == ["id", "note", "photo"]
    assert [list(row.cells.values()) for row in opened.rows(("id", "photo"))] == [["1", "1.jpg"]]
    for read in (lambda: next(opened.rows(("id", "note"))), lambda: read_table(path, ["note"])):
        with pytest.raises(InputError, match="the header names `note` more than once"):
            read()

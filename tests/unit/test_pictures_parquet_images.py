import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.catalog.rejection import RejectedError
from mlim.errors import InputError
from mlim.pictures import parquet_images as cells
from mlim.pictures.folder import FolderPictures
from mlim.sources.table import TableSource

PLAIN = pa.binary()
HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(path, values, kind=PLAIN, rows_per_group=3):
    table = pa.table({"id": [str(n) for n in range(len(values))], "image": pa.array(values, kind)})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def source(place):
    return TableSource.open(place, "utf-8", "image", FolderPictures(place.parent / "images", 10_000), 10_000)


def reason(store, reference):
    with pytest.raises(RejectedError) as caught:
        store.read(reference)
    return caught.value.rejection.reason


@pytest.mark.parametrize("kind", [PLAIN, pa.large_binary(), HUGGING_FACE])
def test_pictures_are_read_from_the_cells_they_stand_in(tmp_path, kind):
    data = [f"picture {number}".encode() for number in range(10)]
    values = [{"bytes": one, "path": "a.png"} for one in data] if kind == HUGGING_FACE else data
    opened = source(parquet(tmp_path / "t.parquet", values, kind))
    store = opened.pictures()
    references = [row.cells["image"] for row in opened.rows(["id", "image"])]
    assert references[:2] == ["t.parquet#1", "t.parquet#2"]
    assert [row.cells["image"] for row in opened.rows(["image"])] == references
    assert [store.read(reference) for reference in references] == data
    travelled = pickle.loads(pickle.dumps(store))
    assert travelled.read(references[7]) == data[7]


LISTS = [pa.list_(PLAIN), pa.large_list(PLAIN), pa.list_(HUGGING_FACE), pa.list_(pa.large_binary())]


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_of_a_list_of_pictures_the_first_that_holds_something_is_read(tmp_path, kind):
    """Point 9: a Parquet list of bytes, or of structs as Hugging Face writes them."""
    lists = [[b"one", b"two"], [None, b"three"], [b"", b"four"], [None, None], None, [b"five", None]]
    if kind.value_type == HUGGING_FACE:
        lists = [one and [{"bytes": data, "path": None} for data in one] for one in lists]
        lists.append([{"bytes": None, "path": "a.png"}])
        lists.append([])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"a file")
    opened = source(parquet(tmp_path / "t.parquet", lists, kind))
    store = opened.pictures()
    references = [row.cells["image"] for row in opened.rows(["image"])]
    assert [store.read(references[row]) for row in (0, 1, 2, 5)] == [b"one", b"three", b"four", b"five"]
    assert [reason(store, references[row]) for row in (3, 4)] == ["missing-image"] * 2
    assert store.fingerprint(references[0])
    if kind.value_type == HUGGING_FACE:
        assert store.read(references[6]) == b"a file"
        assert reason(store, references[7]) == "missing-image"


def test_every_file_of_a_pattern_has_cells_of_its_own(tmp_path):
    for name in ("1", "2"):
        parquet(tmp_path / f"{name}.parquet", [f"{name}-{row}".encode() for row in range(4)])
    opened = source(tmp_path / "*.parquet")
    found = [opened.pictures().read(row.cells["image"]) for row in opened.rows(["image"])]
    assert found == [b"1-0", b"1-1", b"1-2", b"1-3", b"2-0", b"2-1", b"2-2", b"2-3"]


ROWS = 60


@pytest.fixture(scope="module")
def scattered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    for number, size in enumerate((1, 7, 60)):
        parquet(folder / f"{number}.parquet", [f"{number}-{row}".encode() for row in range(ROWS)], rows_per_group=size)
    return source(folder / "*.parquet").pictures()


@settings(deadline=None)
@given(wanted=st.lists(st.tuples(st.integers(0, 2), st.integers(0, ROWS - 1)), max_size=60))
def test_rows_may_be_read_in_any_order_and_more_than_once(scattered, wanted):
    for file, row in wanted:
        assert scattered.read(f"{file}.parquet#{row + 1}") == f"{file}-{row}".encode()


@pytest.mark.parametrize("kind", [PLAIN, HUGGING_FACE])
def test_cells_without_a_picture_are_refused(tmp_path, kind):
    values = [None, b"", b"x" * 10_001, b"x" * 10_000]
    if kind == HUGGING_FACE:
        values = [{"bytes": value, "path": None} for value in values]
    store = source(parquet(tmp_path / "t.parquet", values, kind)).pictures()
    reasons = [reason(store, f"t.parquet#{row}") for row in (1, 2, 3)]
    assert reasons == ["missing-image", "empty-image", "too-many-bytes"]
    assert len(store.read("t.parquet#4")) == 10_000


@pytest.mark.parametrize("row", ["0", "4", "-1", "", "1.0", " 1", "٣", "²", "9" * 5000, "../secret.parquet#1", "1.1"])
def test_a_reference_to_no_row_is_refused(tmp_path, row):
    store = source(parquet(tmp_path / "t.parquet", [b"a", b"b", b"c"])).pictures()
    assert reason(store, f"t.parquet#{row}") == "missing-image"


@pytest.mark.parametrize("reference", ["secret.parquet#1", "../secret.parquet#1", "../t.parquet#1"])
def test_no_cell_can_name_another_file(tmp_path, reference):
    (tmp_path / "images").mkdir()
    parquet(tmp_path / "secret.parquet", [b"secret"])
    parquet(tmp_path / "images" / "secret.parquet", [b"secret"])
    (tmp_path / "t.csv").write_text(f"id,image\n1,{reference}\n")
    for table in (tmp_path / "t.csv", parquet(tmp_path / "t.parquet", [b"a"])):
        assert reason(source(table).pictures(), reference) in {"missing-image", "outside-folder"}


def test_a_cell_with_a_path_instead_of_bytes_leads_to_the_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"a picture")
    values = [{"bytes": b"own", "path": "a.png"}, {"bytes": None, "path": "a.png"}, {"bytes": None, "path": "../t"}]
    store = source(parquet(tmp_path / "t.parquet", values, HUGGING_FACE)).pictures()
    assert [store.read(f"t.parquet#{row}") for row in (1, 2)] == [b"own", b"a picture"]
    assert reason(store, "t.parquet#3") == "outside-folder"


def test_the_fingerprint_changes_with_the_file_and_with_a_file_that_a_cell_names(tmp_path):
    (tmp_path / "images").mkdir()
    picture = tmp_path / "images" / "a.png"
    picture.write_bytes(b"a picture")
    table = parquet(tmp_path / "t.parquet", [{"bytes": None, "path": "a.png"}], HUGGING_FACE)
    store = source(table).pictures()
    first = store.fingerprint("t.parquet#1")
    picture.write_bytes(b"another picture")
    second = store.fingerprint("t.parquet#1")
    os.utime(table, ns=(1, 1))
    assert len({first, second, store.fingerprint("t.parquet#1")}) == 3
    table.unlink()
    assert store.fingerprint("t.parquet#1") == ""
    assert reason(store, "t.parquet#1") == "missing-image"


def test_a_file_that_is_replaced_is_read_anew(tmp_path):
    table = parquet(tmp_path / "t.parquet", [b"old", b"older"])
    store = source(table).pictures()
    assert store.read("t.parquet#1") == b"old"
    parquet(tmp_path / "new", [b"new"])
    os.utime(tmp_path / "new", ns=(1, 1))
    (tmp_path / "new").rename(table)
    assert store.read("t.parquet#1") == b"new"
    assert reason(store, "t.parquet#2") == "missing-image"


def test_damaged_pages_are_a_refusal_and_a_damaged_file_stops_the_run(tmp_path):
    table = parquet(tmp_path / "t.parquet", [os.urandom(2000) for _ in range(20)], rows_per_group=20)
    data = bytearray(table.read_bytes())
    store = source(table).pictures()
    header = pq.read_metadata(table).row_group(0).column(1).dictionary_page_offset
    data[header : header + 30] = b"\xff" * 30
    table.write_bytes(data)
    assert reason(store, "t.parquet#1") == "missing-image"
    table.write_bytes(data[:-20])
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read as \.parquet"):
        source(table).pictures()


def test_a_row_group_that_is_too_large_to_be_read_by_rows_is_one_sentence(tmp_path, monkeypatch):
    table = parquet(tmp_path / "t.parquet", [os.urandom(2000) for _ in range(20)], rows_per_group=20)
    monkeypatch.setattr(cells, "LARGEST_GROUP_BYTES", 30_000)
    with pytest.raises(InputError, match=r"t\.parquet: holds .* in one row group.*row_group_size=100"):
        source(table).pictures()
    assert source(parquet(table, [os.urandom(2000) for _ in range(20)], rows_per_group=10)).pictures()

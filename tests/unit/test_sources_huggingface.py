import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlim.catalog.rejection import RejectedError
from mlim.errors import InputError
from mlim.pictures.byte_ranges import ByteRangePictures
from mlim.sources.huggingface import ROWS_PER_BATCH
from tests.huggingface_sets import MAX_BYTES, dataset, datasets, jpeg, opened, record, rows

PICTURE = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}  # an Image that `datasets` leaves alone


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(place))


@pytest.fixture
def saved(tmp_path):
    place = tmp_path / "goods"
    dataset(*map(record, range(5))).save_to_disk(place)
    return place


def test_a_saved_data_set_becomes_text(saved):
    source = opened(saved)
    assert list(source.columns()) == ["sku", "kind", "price", "tags", "photo", "row"]
    assert rows(source, "sku", "kind", "price", "tags")[:3] == [
        ("000", "shirt", "0", "new, sale"),
        ("001", "skirt", "0.5", "new, sale"),
        ("002", "shirt", "1", "new, sale"),
    ]
    assert [(row.source, row.row) for row in source.rows(["sku"])] == [("goods/train", n) for n in range(1, 6)]
    assert rows(source, "row") == [("1",), ("2",), ("3",), ("4",), ("5",)]


def test_many_batches_and_files_keep_rows_and_pictures_together(tmp_path):
    place, count = tmp_path / "many", 2 * ROWS_PER_BATCH + 7
    features = datasets.Features({"sku": datasets.Value("string"), "photo": datasets.Image()})
    made = [{"sku": str(n), "photo": {"bytes": b"jpeg %d" % n, "path": None} if n % 3 else None} for n in range(count)]
    dataset(*made, features=features).save_to_disk(place, num_shards=3)
    source = opened(place)
    store = source.pictures()
    found = rows(source, "sku", "photo", "row")
    assert len(found) == count
    for number, (sku, photo, row) in enumerate(found):
        assert (sku, row) == (str(number), str(number + 1))
        assert photo == "" if number % 3 == 0 else store.read(photo) == b"jpeg %d" % number


@pytest.mark.parametrize("kind", [PICTURE, datasets.Value("binary"), datasets.Value("string")], ids=str)
def test_a_list_of_pictures_is_a_list_of_their_places(tmp_path, kind):
    """Point 9: every picture of a list is named, in a file of several batches as well."""
    count = ROWS_PER_BATCH + 3
    lists = [[f"{row}-{number}" for number in range(row % 3)] for row in range(count)]
    place = tmp_path / "goods"
    place.mkdir()
    for name in lists[2] if kind == datasets.Value("string") else ():
        (place / name).write_bytes(name.encode())
    features = datasets.Features({"photo": datasets.List(kind)})
    dataset(*({"photo": [stored(name, kind) for name in one]} for one in lists), features=features).save_to_disk(place)
    source = opened(place)
    store = source.pictures()
    found = [json.loads(photo) for (photo,) in rows(source, "photo")]
    assert [len(one) for one in found] == [len(one) for one in lists]
    assert [store.read(reference).decode() for reference in found[2]] == lists[2]
    if kind != datasets.Value("string"):
        assert [store.read(reference).decode() for reference in found[count - 2]] == lists[count - 2]


def stored(name, kind):
    if kind == PICTURE:
        return {"bytes": name.encode(), "path": None}
    return name.encode() if kind == datasets.Value("binary") else name


def test_pictures_are_never_decoded_while_rows_are_read(tmp_path):
    place = tmp_path / "goods"
    dataset(record(0, photo={"bytes": b"no picture", "path": None})).save_to_disk(place)
    source = opened(place)
    assert source.pictures().read(rows(source, "photo")[0][0]) == b"no picture"


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (None, None),
        ({"bytes": None, "path": None}, None),
        ({"bytes": b"", "path": None}, "empty-image"),
        ({"bytes": b"x" * (MAX_BYTES + 1), "path": None}, "too-many-bytes"),
        ({"bytes": None, "path": "gone.jpg"}, "missing-image"),
        ({"bytes": None, "path": "/etc/passwd"}, "outside-folder"),
        ({"bytes": None, "path": "../secret.jpg"}, "outside-folder"),
    ],
)
def test_what_is_no_picture_is_refused_alone(tmp_path, photo, reason):
    (tmp_path / "secret.jpg").write_bytes(jpeg(1))
    kind = datasets.Features({"sku": datasets.Value("string"), "photo": PICTURE})
    place = tmp_path / "goods"
    dataset(
        {"sku": "a", "photo": photo}, {"sku": "b", "photo": {"bytes": jpeg(2), "path": None}}, features=kind
    ).save_to_disk(place)
    source = opened(place)
    bad, good = (reference for (reference,) in rows(source, "photo"))
    assert source.pictures().read(good) == jpeg(2)
    if reason is None:
        assert bad == ""
        return
    with pytest.raises(RejectedError) as refused:
        source.pictures().read(bad)
    assert refused.value.rejection.reason == reason


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_a_column_of_plain_bytes_is_a_picture(tmp_path, kind):
    features = datasets.Features({"photo": datasets.Value(kind)})
    dataset({"photo": jpeg(1)}, {"photo": None}, {"photo": jpeg(3)}, features=features).save_to_disk(tmp_path / "goods")
    source = opened(tmp_path / "goods")
    first, none, last = (reference for (reference,) in rows(source, "photo"))
    assert [source.pictures().read(first), none, source.pictures().read(last)] == [jpeg(1), "", jpeg(3)]


def test_a_column_of_paths_leads_into_the_folder(tmp_path):
    place = tmp_path / "goods"
    dataset({"photo": "pictures/1.jpg"}, features=datasets.Features({"photo": datasets.Value("string")})).save_to_disk(
        place
    )
    (place / "pictures").mkdir()
    (place / "pictures" / "1.jpg").write_bytes(jpeg(1))
    source = opened(place)
    assert source.pictures().read(rows(source, "photo")[0][0]) == jpeg(1)


def test_a_split_of_several_is_chosen(tmp_path):
    place = tmp_path / "goods"
    both = {"train": dataset(record(0)), "test": dataset(record(1), record(2))}
    datasets.DatasetDict(both).save_to_disk(place)
    assert rows(opened(place, split="test"), "sku") == [("001",), ("002",)]
    assert next(opened(place).rows(["sku"])).source == "goods/train"
    with pytest.raises(InputError, match=r"has no split `tst` \(did you mean `test`"):
        opened(place, split="tst").columns()


def test_a_single_saved_split_is_not_taken_for_another(tmp_path):
    dataset(record(0), split="test").save_to_disk(tmp_path / "goods")
    with pytest.raises(InputError, match="is the split `test`, not `train`"):
        opened(tmp_path / "goods").columns()
    assert rows(opened(tmp_path / "goods", split="test"), "sku") == [("000",)]


def test_a_folder_of_parquet_files_is_read(tmp_path):
    place = tmp_path / "goods"
    place.mkdir()
    dataset(*map(record, range(3))).to_parquet(place / "train-00000.parquet")
    source = opened(place)
    found = rows(source, "sku", "kind", "photo")
    assert [(sku, kind) for sku, kind, _ in found] == [("000", "shirt"), ("001", "skirt"), ("002", "shirt")]
    assert [source.pictures().read(photo) for *_, photo in found] == [jpeg(number) for number in range(3)]


def test_a_folder_of_pictures_is_read(tmp_path):
    place = tmp_path / "goods"
    for number, kind in enumerate(("shirt", "skirt")):
        (place / "train" / kind).mkdir(parents=True)
        (place / "train" / kind / f"{number}.jpg").write_bytes(jpeg(number))
    source = opened(place, image="image", split="train")
    found = rows(source, "image")
    assert [source.pictures().read(photo) for (photo,) in found] == [jpeg(0), jpeg(1)]
    assert source.pictures().fingerprint(found[0][0]) != ""


def test_part_of_a_split_is_refused_rather_than_mixed_up(tmp_path):
    place = tmp_path / "goods"
    place.mkdir()
    dataset(*map(record, range(3))).to_parquet(place / "train-00000.parquet")
    with pytest.raises(InputError, match="has 2 rows but its files 3; name a whole split"):
        rows(opened(place, split="train[1:]"), "sku")


def test_columns_that_are_no_text_are_not_offered(tmp_path):
    features = datasets.Features(
        {
            "sku": datasets.Value("string"),
            "photo": datasets.Image(),
            "more": datasets.List(datasets.List(datasets.Image())),
        }
    )
    one = {"sku": "1", "photo": {"bytes": jpeg(1), "path": None}, "more": []}
    dataset(one, features=features).save_to_disk(tmp_path / "goods")
    assert list(opened(tmp_path / "goods").columns()) == ["sku", "photo", "row"]
    with pytest.raises(InputError, match=r"the column `more` holds list"):
        opened(tmp_path / "goods", image="more").columns()


def test_a_column_of_its_own_called_row_stays(tmp_path):
    features = datasets.Features({"row": datasets.Value("string"), "photo": datasets.Value("binary")})
    dataset({"row": "A7", "photo": jpeg(1)}, features=features).save_to_disk(tmp_path / "goods")
    source = opened(tmp_path / "goods")
    assert list(source.columns()) == ["row", "photo"]
    assert rows(source, "row") == [("A7",)]


def test_a_class_that_is_unknown_is_empty(tmp_path):
    dataset(record(0, kind=-1), record(1, kind=None)).save_to_disk(tmp_path / "goods")
    assert rows(opened(tmp_path / "goods"), "kind") == [("",), ("",)]


def test_the_state_changes_with_the_data(tmp_path, saved):
    source = opened(saved)
    before = source.state()
    assert opened(saved).state() == before
    file = next(saved.glob("*.arrow"))
    os.utime(file, ns=(1, 1))
    assert source.state() != before
    dataset(*map(record, range(6))).save_to_disk(tmp_path / "more")
    assert opened(tmp_path / "more").state() != before


def test_the_librarys_bars_are_left_as_they_were(saved, capfd):
    datasets.enable_progress_bars()
    before = datasets.logging.get_verbosity()
    opened(saved).columns()
    assert not datasets.are_progress_bars_disabled()
    assert datasets.logging.get_verbosity() == before
    assert capfd.readouterr().err == ""


# ---- what is wrong


def test_a_broken_arrow_file_is_named(saved):
    file = next(saved.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match="goods"):
        rows(opened(saved), "sku")


def test_a_compressed_arrow_file_is_refused(saved):
    file = next(saved.glob("*.arrow"))
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    squeezed = io.BytesIO()
    with pa.ipc.new_stream(squeezed, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as target:
        target.write_table(table)
    file.unlink()
    file.write_bytes(squeezed.getvalue())
    with pytest.raises(InputError, match="compressed Arrow file"):
        rows(opened(saved), "photo")


def test_a_saved_folder_that_names_files_elsewhere_is_refused(saved, tmp_path):
    dataset(*map(record, range(5))).save_to_disk(tmp_path / "other")
    state = json.loads((saved / "state.json").read_text())
    other = next((tmp_path / "other").glob("*.arrow"))
    state["_data_files"] = [{"filename": f"../other/{other.name}"}]
    (saved / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match="which lies elsewhere"):
        rows(opened(saved), "sku")


def test_an_empty_folder_is_reported(tmp_path):
    (tmp_path / "goods").mkdir()
    with pytest.raises(InputError, match="goods: cannot be opened as a data set"):
        opened(tmp_path / "goods").columns()


def test_a_file_is_no_data_set(tmp_path):
    (tmp_path / "goods.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="is a file; name the folder"):
        opened(tmp_path / "goods.csv").columns()


def test_no_rows_are_reported(tmp_path):
    place = tmp_path / "goods"
    place.mkdir()
    pq.write_table(pa.table({"sku": pa.array([], pa.string())}), place / "train.parquet")
    with pytest.raises(InputError, match="goods"):
        rows(opened(place), "sku")


def test_code_in_a_folder_is_never_run(tmp_path):
    place = tmp_path / "goods"
    place.mkdir()
    (place / "goods.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(InputError):
        opened(place).columns()
    assert not (tmp_path / "ran").exists()


# ---- references are text that may come from anywhere


@pytest.mark.parametrize(
    "reference", ["", "1", "1@0:0+5\n", "1@7:0+5", "1@-1:0+5", "x=y", "1@0:" + "9" * 30 + "+1", "٣@0:0+5"]
)
def test_a_reference_that_names_nothing_is_refused(tmp_path, reference):
    (tmp_path / "file").write_bytes(b"content")
    store = ByteRangePictures((tmp_path / "file",), (tmp_path,), MAX_BYTES)
    with pytest.raises(RejectedError) as refused:
        store.read(reference)
    assert refused.value.rejection.reason == "missing-image"
    assert store.fingerprint(reference) == ""


def test_a_picture_beyond_the_end_of_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    store = ByteRangePictures((tmp_path / "file", tmp_path / "gone"), (tmp_path,), MAX_BYTES)
    assert store.read("1@0:3+4") == b"tent"
    for reference in ("1@0:3+5", "1@1:0+5"):
        with pytest.raises(RejectedError):
            store.read(reference)

import io
import pickle
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from mlim.catalog.description import load_description
from mlim.catalog.rejection import RejectedError
from mlim.errors import InputError
from mlim.pictures.folder import FolderPictures
from mlim.pictures.router import PictureRouter
from mlim.sources.opening import open_source

COLUMNS = {"id": "id", "image": "image", "text": ["title"]}
MOST_BYTES = 1000


def jpeg():
    target = io.BytesIO()
    Image.new("RGB", (8, 8)).save(target, "JPEG")
    return target.getvalue()


JPEG = jpeg()


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "t.csv").write_text("id,image,title\n1,a.jpg,one\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(JPEG)

    def open_described(**changes):
        values = {"table": "t.csv", "images": "images", "columns": COLUMNS, **changes}
        path = tmp_path / "catalog.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
        return open_source(load_description(path), "catalog.yaml", tmp_path / "cache", MOST_BYTES)

    return open_described


def only_picture(source):
    [row] = source.rows(["id", "image", "title"])
    return pickle.loads(pickle.dumps(source.pictures())).read(row.cells["image"])


def tarred(path):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = len(JPEG)
        archive.addfile(member, io.BytesIO(JPEG))


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", JPEG)


@pytest.mark.parametrize(
    ("images", "write"),
    [("images", None), ("p.tar", tarred), ("p.zip", zipped), ("*.zip", lambda path: zipped(path.with_name("p1.zip")))],
)
def test_pictures_come_from_a_folder_or_from_archives(opened, tmp_path, images, write):
    if write is not None:
        write(tmp_path / images)
    assert only_picture(opened(images=images)) == JPEG


def test_pictures_come_from_the_cells_of_parquet(opened, tmp_path):
    pq.write_table(pa.table({"id": ["1"], "image": [JPEG], "title": ["one"]}), tmp_path / "t.parquet")
    assert only_picture(opened(table="t.parquet", images=None)) == JPEG


def test_a_path_without_an_images_folder_is_refused_with_what_to_write(opened):
    source = opened(images=None)
    with pytest.raises(RejectedError) as caught:
        source.pictures().read("a.jpg")
    assert caught.value.rejection.reason == "missing-image"
    assert "`images` names no folder or archive" in caught.value.rejection.detail
    assert source.pictures().fingerprint("a.jpg") == ""


def test_addresses_and_paths_may_stand_side_by_side(opened):
    store = opened().pictures()
    assert store.read("a.jpg") == JPEG
    for address in ("http://127.0.0.1:9/a.jpg", "HTTPS://localhost/a.jpg"):
        with pytest.raises(RejectedError) as caught:
            store.read(address)
        assert caught.value.rejection.reason == "private-address"


def test_what_is_larger_than_the_limit_is_not_read(opened, tmp_path):
    (tmp_path / "images" / "a.jpg").write_bytes(JPEG + bytes(MOST_BYTES))
    with pytest.raises(RejectedError) as caught:
        opened().pictures().read("a.jpg")
    assert caught.value.rejection.reason == "too-many-bytes"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "nowhere"}, "images folder .*nowhere does not exist"),
        ({"images": "nowhere.tar"}, "no archive is found at .*nowhere.tar"),
        ({"images": "t.csv"}, "images folder .*t.csv does not exist"),
        ({"table": "none.csv"}, "no such table"),
        ({"table": "none-*.csv"}, "no file matches this pattern"),
        ({"table": "t.xlsx"}, "must end in"),
    ],
)
def test_what_is_not_there_is_reported_before_any_work(opened, changes, message):
    with pytest.raises(InputError, match=message):
        opened(**changes)


def test_the_encoding_of_the_description_counts(opened, tmp_path):
    (tmp_path / "t.csv").write_bytes("id,image,title\n1,a.jpg,Größe\n".encode("cp1252"))
    [row] = opened(encoding="windows-1252").rows(["title"])
    assert row.cells["title"] == "Größe"
    [row] = opened().rows(["title"])
    assert row.problem.reason == "not-in-encoding"


def test_local_pictures_get_ready_before_they_are_read(tmp_path):
    asked = []

    class Store(FolderPictures):
        def prefetch(self, references):
            asked.append(list(references))

    web, local = Store(tmp_path, 1), Store(tmp_path, 2)
    store = PictureRouter(web, local)
    store.prefetch(())
    store.prefetch(["a.jpg", "http://example.org/a.jpg"])
    assert asked == [[], [], ["http://example.org/a.jpg"], ["a.jpg"]]


@pytest.mark.parametrize("address", ["s3://b/x.jpg", "FTP://x/a.jpg", "//cdn.example/x.jpg"])
def test_addresses_that_are_not_http_are_unsupported_and_not_missing(tmp_path, address):
    """Where there is a folder, `//` may begin a path in it."""
    web = FolderPictures(tmp_path, 9)
    for local in (None, web):
        with pytest.raises(RejectedError) as caught:
            PictureRouter(web, local).read(address)
        if local is None or "://" in address:
            assert caught.value.rejection.reason == "unsupported-address"
            assert caught.value.rejection.detail.startswith(f"{address!r} is not an http or https address; ")
    with pytest.raises(RejectedError, match=r"C:/x\.jpg is no address"):
        PictureRouter(web, None).read("C:/x.jpg")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "x.jpg").write_bytes(b"one")
    assert PictureRouter(web, web).read("//inner/x.jpg") == b"one"


def test_amazon_berkeley_objects_and_hugging_face_are_opened_by_their_own_modules(opened, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        list(opened(source="abo", table=None, images=None, columns=None, abo={"folder": "nowhere"}).columns())
    (tmp_path / "saved").mkdir()
    with pytest.raises(InputError, match="saved"):
        list(opened(source="huggingface", table=None, images=None, huggingface={"dataset": "saved"}).columns())


@pytest.mark.parametrize("many", [False, True])
def test_a_table_that_holds_its_pictures_needs_no_folder(opened, tmp_path, many):
    """Point 9: where cells hold bytes, `images` may name what is not there; a path in a cell is refused."""
    cells = [{"bytes": JPEG, "path": "a.jpg"}, {"bytes": None, "path": "a.jpg"}]
    values = [[cell] for cell in cells] if many else cells
    pq.write_table(pa.table({"id": ["1", "2"], "image": values, "title": ["one", "two"]}), tmp_path / "t.parquet")
    pictures = opened(table="t.parquet", images="nowhere").pictures()
    assert pictures.read("t.parquet#1") == JPEG
    with pytest.raises(RejectedError, match="`images` names no folder or archive that is there"):
        pictures.read("t.parquet#2")
    with pytest.raises(InputError, match="nowhere does not exist"):
        opened(images="nowhere")

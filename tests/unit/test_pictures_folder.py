import os
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlim.catalog.rejection import RejectedError, Rejection
from mlim.pictures.folder import FolderPictures

LIMIT = 100
SECRET = b"secret"


@pytest.fixture
def folder(tmp_path):
    """The images folder, with a secret beside it."""
    (tmp_path / "secret.jpg").write_bytes(SECRET)
    (tmp_path / "images" / "inner").mkdir(parents=True)
    (tmp_path / "images" / "a.jpg").write_bytes(b"one")
    (tmp_path / "images" / "inner" / "b.jpg").write_bytes(b"two")
    return tmp_path / "images"


@pytest.fixture
def store(folder):
    return FolderPictures(folder, LIMIT)


def reason(store, reference):
    with pytest.raises(RejectedError) as caught:
        store.read(reference)
    assert caught.value.rejection.detail
    return caught.value.rejection.reason


def test_files_are_read_by_their_path_in_the_folder(folder, store):
    assert [store.read(name) for name in ("a.jpg", "./a.jpg", "inner/../a.jpg")] == [b"one"] * 3
    assert store.read("inner/b.jpg") == b"two"
    assert store.read(str(folder / "a.jpg")) == b"one"  # an absolute path inside the folder leads nowhere else


def test_a_store_that_remembers_nothing_follows_links_as_they_are_now(folder):
    """A server lives while folders are replaced: by links out of the folder, or to the pictures of the next day."""
    store = FolderPictures(folder, LIMIT, remember=False)
    assert store.read("inner/b.jpg") == b"two"
    (folder.parent / "outside").mkdir()
    (folder.parent / "outside" / "b.jpg").write_bytes(SECRET)
    (folder / "inner").rename(folder / "monday")
    (folder / "inner").symlink_to(folder.parent / "outside")
    assert reason(store, "inner/b.jpg") == "outside-folder"
    (folder / "tuesday").mkdir()
    (folder / "tuesday" / "b.jpg").write_bytes(b"new")
    for day, found in (("monday", b"two"), ("tuesday", b"new")):
        (folder / "inner").unlink()
        (folder / "inner").symlink_to(folder / day)
        assert store.read("inner/b.jpg") == found


NFC, NFD = "caf\u00e9", "cafe\u0301"
SPELLINGS = ["{}/{}.jpg", "/{}/{}.jpg", "//{}/{}.jpg", "{}\\{}.jpg", "\\{}\\{}.jpg", "./{}//{}.jpg"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("on_disk", [(NFC, NFC), (NFD, NFD), (NFC, NFD), (NFD, NFC)])
@pytest.mark.parametrize("written", [(NFC, NFC), (NFD, NFD), (NFD, NFC)])
def test_the_same_name_is_taken_however_it_is_written(folder, store, spelling, on_disk, written):
    """Point 11: Unicode's form, leading slashes and the kind of slash never tell two pictures apart."""
    (folder / on_disk[0]).mkdir()
    (folder / on_disk[0] / f"{on_disk[1]}.jpg").write_bytes(b"three")
    reference = spelling.format(*written)
    assert store.read(reference) == b"three"
    first = store.fingerprint(reference)
    (folder / on_disk[0] / f"{on_disk[1]}.jpg").write_bytes(b"changed")
    assert first != store.fingerprint(reference) != ""


def test_the_name_as_it_is_written_comes_first(folder, store):
    for name, data in ((f"{NFC}.jpg", b"composed"), (f"{NFD}.jpg", b"apart"), ("inner\\b.jpg", b"backslash")):
        (folder / name).write_bytes(data)
    assert [store.read(f"{form}.jpg") for form in (NFC, NFD)] == [b"composed", b"apart"]
    assert store.read("inner\\b.jpg") == b"backslash"


ALIKE = {
    "a.JPG": "a.jpg",
    "A.jpg": "a.jpg",
    "a": "a.jpg",
    "INNER/B.jpg": "inner/b.jpg",
    "inner%2Fb.jpg": "inner/b.jpg",
    "inner%5Cb.jpg": "inner/b.jpg",
    "/inner/%62.jpg": "inner/b.jpg",
    "images/inner/b.jpg": "inner/b.jpg",
    "my%20photo.jpg": "my photo.jpg",
    "my+photo.jpg": "my photo.jpg",
    "wget it.jpg": "wget%20it.jpg",
    "x&amp;y.jpg": "x&y.jpg",
}


@pytest.mark.parametrize("reference", ALIKE)
def test_a_name_that_is_only_alike_is_refused_with_the_one_that_is_there(folder, store, reference):
    """Point 11: another picture could be meant, so the message says which spelling exists."""
    for name in ("my photo.jpg", "wget%20it.jpg", "x&y.jpg"):
        (folder / name).write_bytes(b"three")
    with pytest.raises(RejectedError) as caught:
        store.read(reference)
    message = f"{reference!r} is not in the images folder, but {ALIKE[reference]!r} is"
    assert caught.value.rejection == Rejection("missing-image", message)
    assert store.fingerprint(reference) == ""


def test_of_several_names_that_are_alike_none_is_reported(folder, store):
    (folder / "A.JPG").write_bytes(b"three")
    with pytest.raises(RejectedError) as caught:
        store.read("a.Jpg")
    assert caught.value.rejection.detail == "'a.Jpg' is not in the images folder"


@pytest.mark.parametrize("reference", ["%2e%2e/secret.jpg", "up/SECRET.jpg", "..\\secret.jpg", "..%5Csecret.jpg"])
def test_no_other_spelling_leads_out_of_the_folder_or_tells_what_is_there(folder, store, reference):
    (folder / "up").symlink_to(folder.parent)
    with pytest.raises(RejectedError) as caught:
        store.read(reference)
    assert "but" not in caught.value.rejection.detail
    assert store.fingerprint(reference) == ""


@pytest.mark.parametrize(
    "reference", ["../secret.jpg", "inner/../../secret.jpg", "/etc/passwd", "..", "../images-2/a.jpg"]
)
def test_paths_out_of_the_folder_are_refused(reference, folder, store):
    (folder.parent / "images-2").mkdir()
    (folder.parent / "images-2" / "a.jpg").write_bytes(SECRET)
    assert reason(store, reference) == "outside-folder"


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(folder, store):
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "up").symlink_to(folder.parent)
    (folder / "in.jpg").symlink_to("inner/b.jpg")
    assert reason(store, "out.jpg") == reason(store, "up/secret.jpg") == "outside-folder"
    assert store.read("in.jpg") == b"two"


def test_the_folder_itself_may_be_a_link(folder):
    (folder.parent / "linked").symlink_to(folder)
    assert FolderPictures(folder.parent / "linked", LIMIT).read("inner/b.jpg") == b"two"


def test_loops_of_links_and_dangling_links_are_missing(folder, store):
    (folder / "loop").symlink_to("pool")
    (folder / "pool").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    assert reason(store, "loop") == reason(store, "loop/a.jpg") == reason(store, "dangling") == "missing-image"


def test_what_is_no_file_is_missing_and_is_not_waited_for(folder, store):
    os.mkfifo(folder / "pipe")
    assert [reason(store, name) for name in ("pipe", "inner", "", ".", "nowhere.jpg", "a.jpg/b.jpg")] == [
        "missing-image"
    ] * 6


@pytest.mark.parametrize("reference", ["a\0.jpg", "\0", "x" * 300, "x/" * 3000, "\ud800.jpg"])
def test_names_that_no_file_can_have_are_missing(reference, store):
    assert reason(store, reference) == "missing-image"
    assert store.fingerprint(reference) == ""


def test_empty_and_large_files_are_refused(folder, store):
    for name, size in (("empty", 0), ("full", LIMIT), ("large", LIMIT + 1)):
        (folder / name).write_bytes(bytes(size))
    assert reason(store, "empty") == "empty-image"
    assert store.read("full") == bytes(LIMIT)
    assert reason(store, "large") == "too-many-bytes"


def test_the_fingerprint_changes_with_the_file(folder, store):
    first = store.fingerprint("a.jpg")
    assert first
    assert store.fingerprint("a.jpg") == first
    os.utime(folder / "a.jpg", ns=(1, 1))
    second = store.fingerprint("a.jpg")
    (folder / "a.jpg").write_bytes(b"longer")
    os.utime(folder / "a.jpg", ns=(1, 1))
    assert len({first, second, store.fingerprint("a.jpg")}) == 3
    assert store.fingerprint("nowhere.jpg") == ""


def test_the_store_travels_to_other_processes(store):
    assert pickle.loads(pickle.dumps(store)).read("a.jpg") == b"one"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab./\\~$\0é\ud800")) | st.text(max_size=40))
@example("inner/../../images/a.jpg")
def test_any_text_gives_a_file_of_the_folder_or_a_refusal(folder, store, text):
    try:
        data = store.read(text)
    except RejectedError:
        return
    assert data in (b"one", b"two")
    below = text.removeprefix(f"{folder}/").lstrip("/").replace("\\", "/")
    assert Path(os.path.realpath(folder / below)).is_relative_to(folder)


@pytest.mark.parametrize(
    ("link", "advice"),
    [
        ("shots", "write `images: {disk}`"),
        ("img", "write `images: {disk}/shots`, and leave `img/` out of the names"),
    ],
)
def test_a_link_out_of_the_folder_is_named_with_what_to_write(folder, link, advice):
    """Pictures on another disk are linked beside the table; a server tells nobody where its links lead."""
    disk = folder.parent / "disk"
    (disk / "shots").mkdir(parents=True)
    (folder / link).symlink_to(disk / "shots")
    said = [FolderPictures(folder, LIMIT, remember) for remember in (True, False)]
    with pytest.raises(RejectedError) as told:
        said[0].read(f"{link}/a.jpg")
    with pytest.raises(RejectedError) as untold:
        said[1].read(f"{link}/a.jpg")
    reason = f"{link}/a.jpg leads out of the images folder"
    named = f"; `{link}` is a link to {disk}/shots; {advice.format(disk=disk)}"
    assert told.value.rejection == Rejection("outside-folder", f"{reason}{named}")
    assert untold.value.rejection == Rejection("outside-folder", reason)

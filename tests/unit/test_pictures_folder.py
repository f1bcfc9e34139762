import os
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlim.catalog.pictures.folder import FolderPictures
from mlim.catalog.refusal import RefusedError

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
    with pytest.raises(RefusedError) as caught:
        store.read(reference)
    assert caught.value.refusal.detail
    return caught.value.refusal.reason


def test_files_are_read_by_their_path_in_the_folder(folder, store):
    assert [store.read(name) for name in ("a.jpg", "./a.jpg", "inner/../a.jpg")] == [b"one"] * 3
    assert store.read("inner/b.jpg") == b"two"
    assert store.read(str(folder / "a.jpg")) == b"one"  # an absolute path inside the folder leads nowhere else


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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab./\\~$\0é\ud800")) | st.text(max_size=40))
@example("inner/../../images/a.jpg")
def test_any_text_gives_a_file_of_the_folder_or_a_refusal(folder, store, text):
    try:
        data = store.read(text)
    except RefusedError:
        return
    assert data in (b"one", b"two")
    assert Path(os.path.realpath(folder / text)).is_relative_to(folder)

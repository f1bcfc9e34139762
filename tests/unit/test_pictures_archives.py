import io
import os
import pickle
import random
import struct
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlim.catalog.pictures.archives import ArchivePictures, names_archives
from mlim.catalog.pictures.members import safe_name
from mlim.catalog.refusal import RefusedError
from mlim.errors import InputError, MlimError

LIMIT = 10_000
BOMB_BYTES = 50_000_000
UNSAFE_NAMES = ("/etc/passwd", "../out.jpg", "a/../../out.jpg", "C:/out.jpg", "c:out.jpg", "a\\b.jpg", "..", "a\0b.jpg")


def write_tar(path, members):
    """Members are (name, bytes) or ready `TarInfo`s."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


WRITERS = {"tar": write_tar, "zip": write_zip}


@pytest.fixture(params=sorted(WRITERS))
def kind(request):
    return request.param


def write(kind, folder, members, name="photos"):
    return WRITERS[kind](folder / f"{name}.{kind}", members)


def store(path, max_bytes=LIMIT):
    return ArchivePictures(path, max_bytes)


def refusal(pictures, reference):
    with pytest.raises(RefusedError) as caught:
        pictures.read(reference)
    assert caught.value.refusal.detail
    return caught.value.refusal


def reason(pictures, reference):
    return refusal(pictures, reference).reason


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_members_are_read_by_their_path_whichever_way_it_is_written(kind, tmp_path):
    path = write(kind, tmp_path, [("./a/b.jpg", b"one"), ("c.jpg", b"two" * 100)])
    pictures = store(path)
    pictures.check()
    assert [pictures.read(name) for name in ("a/b.jpg", "./a//b.jpg", f"{path.name}/a/b.jpg")] == [b"one"] * 3
    assert pictures.read("c.jpg") == b"two" * 100


def test_a_pattern_names_several_archives_of_both_kinds(tmp_path):
    write_tar(tmp_path / "1.tar", [("a.jpg", b"one")])
    write_zip(tmp_path / "2.zip", [("b.jpg", b"two")])
    pictures = store(tmp_path / "[12].*")
    pictures.check()
    assert (pictures.read("a.jpg"), pictures.read("b.jpg")) == (b"one", b"two")


def test_a_path_in_two_archives_needs_the_archives_name(kind, tmp_path):
    write(kind, tmp_path, [("a.jpg", b"one")], "1")
    write(kind, tmp_path, [("a.jpg", b"two")], "2")
    pictures = store(tmp_path / f"*.{kind}")
    found = refusal(pictures, "a.jpg")
    assert found.reason == "ambiguous-image"
    assert f"1.{kind}" in found.detail
    assert f"2.{kind}" in found.detail
    assert pictures.read(f"2.{kind}/a.jpg") == b"two"


def test_a_folder_named_like_the_archive_is_found_too(kind, tmp_path):
    path = write(kind, tmp_path, [(f"photos.{kind}/a.jpg", b"inner")])
    assert store(path).read(f"photos.{kind}/a.jpg") == b"inner"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_last_of_two_members_with_one_name_counts(kind, tmp_path):
    assert store(write(kind, tmp_path, [("a.jpg", b"old"), ("a.jpg", b"new")])).read("a.jpg") == b"new"


def test_names_meet_in_one_unicode_form(kind, tmp_path):
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    assert store(write(kind, tmp_path, [(decomposed, b"one")])).read(composed) == b"one"


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_a_name_that_leads_out_is_refused_even_when_the_archive_holds_it(kind, name, tmp_path):
    pictures = store(write(kind, tmp_path, [(name.replace("\0", ""), b"out"), ("a.jpg", b"in")]))
    assert reason(pictures, name) == "outside-folder"
    assert pictures.read("a.jpg") == b"in"


@given(st.text(st.sampled_from("ab./\\:C\0é"), max_size=12))
@example("./C:")
def test_a_safe_name_never_leads_out(text):
    name = safe_name(text)
    if name is not None:
        assert safe_name(name) == name
        assert os.path.normpath(name or ".").split("/")[0] != ".."
        assert not name.startswith("/")
        assert "\\" not in name


@pytest.mark.parametrize("member", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("target", ["/etc/hostname", "../../secret.jpg", "real.jpg"])
def test_links_and_devices_in_a_tar_are_refused(member, target, tmp_path):
    pictures = store(write_tar(tmp_path / "photos.tar", [("real.jpg", b"one"), special("link.jpg", member, target)]))
    assert reason(pictures, "link.jpg") == "link-in-archive"
    assert pictures.fingerprint("link.jpg") == ""


def test_a_link_to_a_folder_gives_no_way_through_it(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    members = [special("folder", tarfile.SYMTYPE, str(tmp_path)), ("folder/inner.jpg", b"inner")]
    pictures = store(write_tar(tmp_path / "photos.tar", members))
    assert reason(pictures, "folder/secret.jpg") == "missing-image"
    assert pictures.read("folder/inner.jpg") == b"inner"


def test_a_symlink_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    assert reason(store(write_zip(tmp_path / "photos.zip", [(link, "/etc/hostname")])), "link.jpg") == "link-in-archive"


def test_a_folder_is_no_picture(tmp_path):
    tar = store(write_tar(tmp_path / "photos.tar", [special("a", tarfile.DIRTYPE), ("a/b.jpg", b"one")]))
    packed = store(write_zip(tmp_path / "photos.zip", [("a/", b""), ("a/b.jpg", b"one")]))
    for pictures in (tar, packed):
        assert reason(pictures, "a") == "missing-image"
        assert reason(pictures, "a/") == "missing-image"
        assert reason(pictures, "") == "missing-image"


def test_an_encrypted_member_is_refused(tmp_path):
    path = write_zip(tmp_path / "photos.zip", [("a.jpg", b"one")])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert reason(store(path), "a.jpg") == "encrypted-member"


def test_compressions_without_a_bound_on_their_output_are_refused(tmp_path):
    path = write_zip(tmp_path / "photos.zip", [("a.jpg", bytes(1000))], zipfile.ZIP_BZIP2)
    assert reason(store(path), "a.jpg") == "unsupported-member"


def test_large_and_empty_members_are_refused(kind, tmp_path):
    pictures = store(write(kind, tmp_path, [("large", bytes(LIMIT + 1)), ("full", bytes(LIMIT)), ("empty", b"")]))
    assert reason(pictures, "large") == "too-many-bytes"
    assert pictures.read("full") == bytes(LIMIT)
    assert reason(pictures, "empty") == "empty-image"


def declare_size(path, size):
    """Make the only member of a zip claim another size, in both of its headers."""
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + place, size)
    path.write_bytes(data)


def test_a_zip_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path):
    path = write_zip(tmp_path / "photos.zip", [("bomb.jpg", bytes(BOMB_BYTES))])
    assert reason(store(path, BOMB_BYTES // 100), "bomb.jpg") == "too-many-bytes"
    declare_size(path, 1000)
    pictures = store(path, BOMB_BYTES // 100)
    pictures.check()
    tracemalloc.start()
    assert reason(pictures, "bomb.jpg") == "broken-archive"
    assert tracemalloc.get_traced_memory()[1] < BOMB_BYTES // 100
    tracemalloc.stop()


def test_a_member_that_claims_more_than_it_has_is_refused(tmp_path):
    path = write_zip(tmp_path / "photos.zip", [("a.jpg", bytes(100))])
    declare_size(path, 200)
    assert reason(store(path), "a.jpg") == "broken-archive"


def test_a_flipped_byte_in_a_zip_member_is_refused_and_the_others_are_read(tmp_path):
    noise = random.Random(0).randbytes(500)
    path = write_zip(tmp_path / "photos.zip", [("a.jpg", noise), ("b.jpg", b"fine")])
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    found = refusal(store(path), "a.jpg")
    assert found.reason == "broken-archive"
    assert "photos.zip" in found.detail
    assert store(path).read("b.jpg") == b"fine"


@pytest.mark.parametrize("suffix", ["tar.gz", "tgz", "tar"])
def test_a_compressed_tar_is_one_clear_error_by_content_or_name(suffix, tmp_path):
    path = tmp_path / f"photos.{suffix}"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(InputError, match="; decompress it once"):
        store(path).check()


def test_check_names_every_unreadable_archive_at_once(tmp_path):
    write_tar(tmp_path / "0.tar", [("a.jpg", b"one")])
    (tmp_path / "1.tar").write_bytes(b"")
    (tmp_path / "2.zip").write_bytes(b"not a zip")
    (tmp_path / "3.tar").write_bytes(b"x" * 5000)
    with pytest.raises(InputError) as caught:
        store(tmp_path / "*").check()
    assert [
        number in problem for number, problem in zip(("1.tar", "2.zip", "3.tar"), caught.value.problems, strict=True)
    ]
    assert len(caught.value.problems) == 3


def test_no_archive_at_all_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no archive is found"):
        store(tmp_path / "*.tar").check()


def test_a_tar_that_is_cut_off_is_an_error(tmp_path):
    path = write_tar(tmp_path / "photos.tar", [("a.jpg", bytes(3000)), ("b.jpg", bytes(3000))])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"photos\.tar"):
        store(path).check()


def test_a_broken_header_in_mid_tar_does_not_hide_what_lies_behind_it(tmp_path):
    path = write_tar(tmp_path / "photos.tar", [("a.jpg", b"one"), ("b.jpg", b"two"), ("c.jpg", b"three")])
    data = bytearray(path.read_bytes())
    data[1024] ^= 255
    path.write_bytes(data)
    with pytest.raises(InputError, match="header at byte 1024 is broken"):
        store(path).check()


def test_a_tar_header_that_claims_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "photos.tar"
    info = special("long", tarfile.GNUTYPE_LONGNAME)
    info.size = 8 << 30
    with path.open("wb") as target:
        target.write(info.tobuf(tarfile.GNU_FORMAT))
        target.truncate(9 << 30)  # a hole, no real bytes
    with pytest.raises(InputError, match="a header claims"):
        store(path).check()


def test_an_archive_that_changes_while_it_is_read_stops_the_run(kind, tmp_path):
    path = write(kind, tmp_path, [("a.jpg", b"one")])
    pictures = store(path)
    assert pictures.read("a.jpg") == b"one"
    write(kind, tmp_path, [("a.jpg", b"another"), ("b.jpg", b"two")])
    with pytest.raises(MlimError, match="changed while it was read"):
        pictures.read("a.jpg")
    assert store(path).read("a.jpg") == b"another"


def test_the_fingerprint_tells_members_and_archive_versions_apart(kind, tmp_path):
    path = write(kind, tmp_path, [("a.jpg", b"one"), ("b.jpg", b"two")])
    pictures = store(path)
    first = pictures.fingerprint("a.jpg")
    assert first
    assert first == store(path).fingerprint("a.jpg")
    assert first != pictures.fingerprint("b.jpg")
    assert pictures.fingerprint("missing.jpg") == pictures.fingerprint("../a.jpg") == ""
    write(kind, tmp_path, [("a.jpg", b"one, longer"), ("b.jpg", b"two")])
    assert store(path).fingerprint("a.jpg") != first


def test_a_pickled_store_carries_no_index(kind, tmp_path):
    path = write(kind, tmp_path, [(f"{number}.jpg", b"x") for number in range(1000)])
    pictures = store(path)
    assert pictures.read("7.jpg") == b"x"
    pickled = pickle.dumps(pictures)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).read("7.jpg") == b"x"


def test_threads_and_forked_processes_read_at_once(kind, tmp_path):
    members = [(f"{number}.jpg", str(number).encode() * 500) for number in range(50)]
    pictures = store(write(kind, tmp_path, members))
    pictures.check()
    wanted = members * 40

    def read_all():
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(pictures.read, [name for name, _ in wanted]))

    child = os.fork()
    if child == 0:
        os._exit(0 if read_all() == [data for _, data in wanted] else 1)
    assert read_all() == [data for _, data in wanted]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_archives_give_the_bytes_a_refusal_or_one_error(kind, data, tmp_path):
    path = write(kind, tmp_path, [("a.jpg", b"one" * 50), ("b.jpg", b"two" * 50)])
    content = bytearray(path.read_bytes())
    content = content[:2100] if kind == "tar" else content  # without the padding, where a change means nothing
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        content[place] = value
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        found = store(path).read("a.jpg")
    except (InputError, RefusedError):
        return
    assert found == b"one" * 50 if kind == "zip" else len(found) <= LIMIT


def test_what_counts_as_an_archive_is_told_by_the_suffix(tmp_path):
    (tmp_path / "folder.tar").mkdir()
    assert all(names_archives(tmp_path / name) for name in ("a.tar", "A.ZIP", "photos-*.tar", "b.tar.gz", "b.tgz"))
    assert not any(names_archives(tmp_path / name) for name in ("images", "folder.tar"))

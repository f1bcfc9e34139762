import gzip
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from abo_tree import write_abo_tree

from mlim.catalog.description import AboSource
from mlim.errors import DataError, InputError, MlimError
from mlim.files import MARKER
from mlim.sources.abo import AboTable
from mlim.sources.fetch import AboArchive, AboDownload, fetch_abo, load_download
from mlim.sources.unpack import check_archive, merge

pytestmark = pytest.mark.integration

GOOD_BYTES = np.random.default_rng(0).bytes(3_000_000)
NAME = "photos.tar"


@dataclass
class Site:
    """A server on loopback: what it serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    drop_after: list[int] = field(default_factory=list)  # bytes after which the next GETs break off
    refuse: list[int] = field(default_factory=list)  # status codes of the next requests
    seconds_per_chunk: float = 0.0
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    address: str = ""

    def gets(self):
        return [where for method, _, where in self.asked if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(b"")

    def do_GET(self):
        self._answer(None)

    def _answer(self, nothing):
        site, name = self.site, self.path.rpartition("/")[2]
        site.asked.append((self.command, self.path, self.headers.get("Range", "")))
        code = site.refuse.pop(0) if site.refuse else 200
        if name not in site.files:
            code = 404
        if code != 200:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            return
        data = site.files[name]
        self._send(data, f'"{hashlib.md5(data).hexdigest()}"', nothing)

    def _send(self, data, version, nothing):
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.site.ranges else None
        start = int(found[1]) if found and self.headers.get("If-Range", version) == version else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", version)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if nothing is None:
            self._send_body(data[start:])

    def _send_body(self, body):
        limit = self.site.drop_after.pop(0) if self.site.drop_after else len(body)
        try:
            for place in range(0, min(limit, len(body)), 1 << 16):
                self.wfile.write(body[place : min(place + (1 << 16), limit)])
                time.sleep(self.site.seconds_per_chunk)
        except ConnectionError:
            limit = -1  # the client is gone
        if limit < len(body):
            self.close_connection = True


@pytest.fixture
def site():
    made = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"site": made}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.address = f"http://127.0.0.1:{server.server_port}/archives/"
    yield made
    server.shutdown()
    server.server_close()


def tar_of(members, folders=()):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name in folders:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def special(name, kind, link=""):
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        info = tarfile.TarInfo("fine/first.txt")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"first"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        tar.addfile(info)
    return target.getvalue()


def settings(site, *names, sha256=None, **changes):
    archives = tuple(AboArchive(name=name, files=4, sha256=sha256) for name in names or (NAME,))
    quick = {"retries": 2, "backoff_seconds": 0.01, "timeout_seconds": 5, "chunk_bytes": 1 << 16}
    return AboDownload(address=site.address, archives=archives, **{**quick, **changes})


def fetch(site, out, terminal, *names, sha256=None, free=None, **changes):
    extra = {} if free is None else {"free": lambda _: free}
    fetch_abo(out, settings(site, *names, sha256=sha256, **changes), terminal, True, **extra)


def leftovers(out):
    return sorted(
        path.name for path in out.iterdir() if path.name not in (MARKER, "images", "fetched.json", ".fetch.lock")
    )


@pytest.fixture
def photos(site):
    """An archive with one large photo and a small one."""
    site.files[NAME] = tar_of({"images/small/aa/a.jpg": GOOD_BYTES, "images/b.txt": b"bee"}, ["images"])
    return site.files[NAME]


def test_the_published_layout_is_fetched_and_read(site, tmp_path, quiet):
    tree = write_abo_tree(tmp_path / "tree", listings=32, pictures=10).folder
    for name, part in (("abo-listings.tar", "listings"), ("abo-images-small.tar", "images")):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w") as tar:
            tar.add(tree / part, part)
        site.files[name] = target.getvalue()
    out = tmp_path / "out"
    fetch(site, out, quiet, "abo-listings.tar", "abo-images-small.tar")
    source = AboTable(AboSource(folder=out), 1 << 20)
    source.columns()
    assert sum(1 for _ in source.rows(["key"])) == 32
    assert not [name for name in leftovers(out) if name != "listings"]


def test_what_was_fetched_is_recorded_and_not_fetched_again(site, photos, tmp_path, quiet, capsys):
    fetch(site, tmp_path / "out", quiet)
    assert (tmp_path / "out" / "images" / "small" / "aa" / "a.jpg").read_bytes() == GOOD_BYTES
    record = json.loads((tmp_path / "out" / "fetched.json").read_text())[NAME]
    assert record["sha256"] == hashlib.sha256(photos).hexdigest()
    assert record["sha256_was_expected"] is False
    assert (record["files"], record["unpacked_bytes"]) == (2, len(GOOD_BYTES) + 3)
    before = len(site.asked)
    fetch_abo(tmp_path / "out", settings(site), type(quiet)(), accept_licence=False)
    assert len(site.asked) == before
    assert "everything is there already" in capsys.readouterr().err.replace("\n", " ")


def test_what_was_removed_is_fetched_again(site, photos, tmp_path, quiet):
    fetch(site, tmp_path / "out", quiet)
    (tmp_path / "out" / "images").rename(tmp_path / "gone")
    fetch(site, tmp_path / "out", quiet)
    assert (tmp_path / "out" / "images" / "b.txt").read_bytes() == b"bee"


def test_a_dropped_connection_is_continued_where_it_broke(site, photos, tmp_path, quiet):
    site.drop_after = [1_000_000, 500_000]
    fetch(site, tmp_path / "out", quiet, sha256=hashlib.sha256(photos).hexdigest())
    starts = [int(re.fullmatch(r"bytes=(\d+)-", where)[1]) for where in site.gets()[1:]]
    assert site.gets()[0] == ""
    assert len(starts) == 2
    assert 0 < starts[0] <= 1_000_000 < starts[1] <= 1_500_000
    assert (tmp_path / "out" / "images" / "small" / "aa" / "a.jpg").read_bytes() == GOOD_BYTES
    assert leftovers(tmp_path / "out") == []


def test_many_drops_are_borne_as_long_as_bytes_come(site, photos, tmp_path, quiet):
    site.drop_after = [300_000] * 9
    fetch(site, tmp_path / "out", quiet)
    assert len(site.gets()) == 10


def test_a_lost_network_keeps_the_part_and_the_next_run_continues_it(site, photos, tmp_path, quiet):
    out = tmp_path / "out"
    site.drop_after = [1_000_000, 0, 0, 0, 0]
    with pytest.raises(MlimError, match="run the same command again"):
        fetch(site, out, quiet)
    part = (out / f"{NAME}.part").stat().st_size
    assert part > 0
    assert not (out / "images").exists()
    site.drop_after, asked = [], len(site.asked)
    fetch(site, out, quiet)
    assert [where for method, _, where in site.asked[asked:] if method == "GET"] == [f"bytes={part}-"]
    assert (out / "images" / "b.txt").exists()


def test_a_server_without_ranges_starts_over(site, photos, tmp_path, quiet):
    site.ranges, site.drop_after = False, [1_000_000]
    fetch(site, tmp_path / "out", quiet, sha256=hashlib.sha256(photos).hexdigest())
    assert len(site.gets()) == 2


def test_a_part_of_another_version_is_never_continued(site, photos, tmp_path, quiet):
    out = tmp_path / "out"
    site.drop_after = [1_000_000, 0, 0, 0]
    with pytest.raises(MlimError):
        fetch(site, out, quiet)
    site.files[NAME] = tar_of({"images/c.txt": GOOD_BYTES[::-1]})
    site.drop_after, asked = [], len(site.asked)
    fetch(site, out, quiet)
    assert [where for method, _, where in site.asked[asked:] if method == "GET"] == [""]
    assert (out / "images" / "c.txt").read_bytes() == GOOD_BYTES[::-1]


def test_a_busy_server_is_asked_again(site, photos, tmp_path, quiet):
    site.refuse = [503, 429]
    fetch(site, tmp_path / "out", quiet)
    assert (tmp_path / "out" / "images" / "b.txt").exists()


@pytest.mark.parametrize(("code", "message"), [(404, "404"), (403, "403"), (301, "it points to http://127.0.0.1:1")])
def test_a_wrong_address_is_one_clear_error_at_once(site, photos, tmp_path, quiet, code, message):
    site.refuse = [code]
    with pytest.raises(InputError, match=re.escape(message)):
        fetch(site, tmp_path / "out", quiet)
    assert len(site.asked) == 1


def test_a_wrong_checksum_is_one_clear_error_and_the_file_is_put_aside(site, photos, tmp_path, quiet):
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"the SHA-256 is .* but 0000.* was expected"):
        fetch(site, out, quiet, sha256="0" * 64)
    assert leftovers(out) == [f"{NAME}.bad"]
    assert not (out / "images").exists()
    assert not (out / "fetched.json").exists()
    fetch(site, out, quiet, sha256=hashlib.sha256(photos).hexdigest())  # the bad file is not used
    assert (out / "images" / "b.txt").exists()


# ---- the licence


def test_without_the_licence_nothing_is_asked_for_and_nothing_written(site, photos, tmp_path, quiet, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(InputError, match="--accept-licence"):
        fetch_abo(tmp_path / "out", settings(site), quiet, accept_licence=False)
    with pytest.raises(InputError, match="not accepted"):
        fetch_abo(tmp_path / "out", settings(site), quiet, accept_licence=False, ask=lambda _: False)
    assert site.asked == []
    assert not (tmp_path / "out").exists()


def test_a_person_is_shown_both_licences_and_asked(site, photos, tmp_path, quiet):
    questions = []

    def yes(question):
        questions.append(question)
        return True

    fetch_abo(tmp_path / "out", settings(site), quiet, accept_licence=False, ask=yes)
    assert "CC BY 4.0" in questions[0]
    assert "CC BY-NC 4.0" in questions[0]
    assert (tmp_path / "out" / "images" / "b.txt").exists()


# ---- the disk


def test_a_small_disk_is_reported_before_the_first_byte(site, photos, tmp_path, quiet):
    with pytest.raises(
        InputError, match=r"0\.00301 GB to download, 0\.00303 GB unpacked\), but only 0\.005 GB are free"
    ):
        fetch(site, tmp_path / "out", quiet, free=5_000_000)
    assert site.gets() == []


def test_what_is_downloaded_already_needs_no_room(site, photos, tmp_path, quiet):
    out = tmp_path / "out"
    site.drop_after = [2_900_000, 0, 0, 0]
    with pytest.raises(MlimError):
        fetch(site, out, quiet)
    site.drop_after = []
    fetch(site, out, quiet, free=5_000_000)
    assert (out / "images" / "b.txt").exists()


def test_many_small_files_are_counted_as_the_disk_does(tmp_path):
    path = tmp_path / "many.tar"
    path.write_bytes(tar_of({f"images/{number}": b"x" for number in range(100)}))
    contents = check_archive(path)
    assert (contents.files, contents.bytes, contents.on_disk) == (100, 100, 100 * 4096)


# ---- archives that must not be trusted


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar_of({"fine/a.txt": b"a", "../x.txt": b"x"}), "leads out of the folder"),
        (tar_of({"fine/a.txt": b"a", "images/../../x.txt": b"x"}), "leads out of the folder"),
        (tar_of({"fine/a.txt": b"a", "/tmp/mlim-x.txt": b"x"}), "leads out of the folder"),
        (tar_of({"fine/a.txt": b"a", "": b"x"}), "has no name"),
        (tar_of({"fine/a.txt": b"a", "./": b"x"}), "has no name"),
        (tar_of({"fine/a.txt": b"a", "x" * 4000: b"x"}), "has a name that is too long for a file"),
        (tar_of({"fine/a.txt": b"a", f"images/{'ä' * 200}/a": b"x"}), "has a name that is too long for a file"),
        (special("images/link", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (special("images/link", tarfile.LNKTYPE, "fine/first.txt"), "is a link"),
        (special("images/device", tarfile.CHRTYPE), "neither a plain file nor a folder"),
        (special("images/pipe", tarfile.FIFOTYPE), "neither a plain file nor a folder"),
        (special("images/sparse", tarfile.GNUTYPE_SPARSE), "neither a plain file nor a folder"),
        (gzip.compress(tar_of({"fine/a.txt": b"a"}), mtime=0), "broken tar"),
        (tar_of({"fine/a.txt": b"a" * 5000})[:3000], "broken tar"),
        (tar_of({"fine/a.txt": b"a"})[:1024], "broken tar"),
        (b"<html>not here</html>" * 100, "broken tar"),
        (b"", "broken tar"),
    ],
)
def test_an_unsafe_or_broken_archive_is_refused_whole(site, tmp_path, quiet, data, message):
    site.files[NAME] = data
    with pytest.raises(DataError, match=message):
        fetch(site, tmp_path / "out", quiet)
    assert not (tmp_path / "out" / "fine").exists()
    assert not (tmp_path / "out" / "fetched.json").exists()
    assert not list(tmp_path.rglob("x.txt"))


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    data = bytearray(tar_of({"a.txt": b"a", "b.txt": b"b", "c.txt": b"c"}))
    data[1024 + 150] ^= 0xFF  # in the checksum of the second header
    (tmp_path / "broken.tar").write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        check_archive(tmp_path / "broken.tar")


# ---- stopped and run again


SCRIPT = """
import sys
from pathlib import Path
from mlim.sources.fetch import AboArchive, AboDownload, fetch_abo
from mlim.console import Terminal
archives = (AboArchive(name="photos.tar", files=4),)
settings = AboDownload(address=sys.argv[1], archives=archives, chunk_bytes=65536)
fetch_abo(Path(sys.argv[2]), settings, Terminal(quiet=True), accept_licence=True)
"""


@contextmanager
def fetching(site, out):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, site.address, str(out)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_killed_in_the_middle_of_the_download_it_continues(site, photos, tmp_path, quiet):
    out, site.seconds_per_chunk = tmp_path / "out", 0.05
    part = out / f"{NAME}.part"
    with fetching(site, out) as process:
        while not part.exists() or part.stat().st_size < 300_000:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    site.seconds_per_chunk, size = 0.0, part.stat().st_size
    fetch(site, out, quiet, sha256=hashlib.sha256(photos).hexdigest())
    assert site.gets()[-1] == f"bytes={size}-"
    assert leftovers(out) == []


def test_killed_in_the_middle_of_unpacking_it_finishes(site, tmp_path, quiet):
    members = {f"images/small/{number % 16:02x}/{number}.jpg": b"x" * 2000 for number in range(4000)}
    site.files[NAME] = tar_of(members)
    out = tmp_path / "out"
    with fetching(site, out) as process:
        while not list(out.glob(f"..{NAME}.unpacked.*.tmp/images/small/00/*")):
            assert process.poll() is None
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    asked = len(site.gets())
    fetch(site, out, quiet)
    assert len(site.gets()) == asked  # the archive was there already
    assert len([path for path in (out / "images").rglob("*") if path.is_file()]) == 4000
    assert leftovers(out) == []


def test_two_at_once_are_one_too_many(site, photos, tmp_path, quiet):
    site.seconds_per_chunk = 0.05
    with fetching(site, tmp_path / "out"):
        while not site.gets():
            time.sleep(0.02)
        with pytest.raises(MlimError, match="another `mlim catalog fetch`"):
            fetch(site, tmp_path / "out", quiet)


# ---- settings


def test_archives_share_folders_and_may_be_kept(site, tmp_path, quiet):
    site.files = {
        "a.tar": tar_of({"images/small/a": b"a", "images/x": b"1"}),
        "b.tar": tar_of({"images/small/b": b"b"}),
    }
    fetch(site, tmp_path / "out", quiet, "a.tar", "b.tar", keep_archives=True)
    found = Counter(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert {"images/small/a", "images/small/b", "images/x", "a.tar", "b.tar"} <= set(found)


def test_an_address_without_encryption_needs_checksums():
    with pytest.raises(InputError, match="must be https"):
        load_download(None, ["address=http://example.org/abo"])
    archives = f"archives=[{{name: a.tar, files: 1, sha256: {'a' * 64}}}]"
    assert load_download(None, ["address=http://example.org/abo", archives]).archives[0].name == "a.tar"
    assert load_download(None).address.startswith("https://")


def test_settings_can_lie_in_a_file(tmp_path):
    path = tmp_path / "mirror.yaml"
    path.write_text("address: https://mirror.example/abo\nretries: 9\n", encoding="utf-8")
    assert load_download(path, ["retries=3"]).retries == 3
    path.write_text("adress: https://mirror.example/abo\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"mirror\.yaml: unknown key `adress` \(did you mean `address`"):
        load_download(path)


@pytest.mark.parametrize("name", ["../x.tar", "a/b.tar", ".hidden.tar", "x.zip", ""])
def test_an_archives_name_is_just_a_name(name):
    with pytest.raises(ValueError, match="name"):
        AboArchive(name=name, files=1)


def test_a_folder_with_files_of_its_own_is_refused_before_the_first_byte(site, photos, tmp_path, quiet):
    """Point 19: what a person keeps in `images/` is not merged with an archive."""
    own = tmp_path / "out" / "images" / "b.txt"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(InputError, match=r"out: holds something that mlim did not make \(images\)"):
        fetch(site, tmp_path / "out", quiet)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["images", "b.txt"]
    assert own.read_text() == "mine"


def test_archives_fetched_by_hand_and_folders_of_earlier_versions_are_taken(site, photos, tmp_path, quiet):
    """Point 19: what only this command can have made, or lies there for it, needs no marker."""
    out = tmp_path / "out"
    out.mkdir()
    (out / NAME).write_bytes(photos)
    fetch(site, out, quiet)
    (out / MARKER).unlink()
    (out / "images" / "b.txt").unlink()
    (out / "images").rename(tmp_path / "gone")
    fetch(site, out, quiet)
    assert (out / "images" / "b.txt").read_bytes() == b"bee"


def test_an_archive_is_not_merged_into_what_a_link_leads_to(tmp_path):
    """Point 19: a link inside the folder is not followed out of it."""
    staged, out, elsewhere = (tmp_path / name for name in ("staged", "out", "elsewhere"))
    for folder, text in ((staged / "images", "new"), (elsewhere, "mine"), (out, "")):
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(text)
    (out / "images").symlink_to(elsewhere)
    with pytest.raises(OSError, match="images"):
        merge(staged, out)
    assert (elsewhere / "a.txt").read_text() == "mine"


def test_a_file_in_the_folders_place_is_reported(site, tmp_path, quiet):
    (Path(tmp_path) / "out").write_text("")
    with pytest.raises(InputError, match="is a file"):
        fetch(site, tmp_path / "out", quiet)

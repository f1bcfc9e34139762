"""What a hostile or broken catalog can hold, through the whole step: quarantined with its reason, or one error."""

import http.server
import io
import resource
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image

from mlim.catalog.quarantine import read_quarantine
from mlim.console import Terminal
from mlim.errors import InputError
from mlim.shards.shard import read_manifest, read_shard
from mlim.steps.ingest import ingest
from mlim.workspace import Workspace
from tests.small_catalog import described, recipe, small_catalog

TOLERANT = "ingest.max_quarantined_share=1.0"
HEADER = "sku,picture,product,title,colour,pattern"


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def claims(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes do not have."""
    data = bytearray(encoded(Image.new("L", (1, 1))))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def turned() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encoded(Image.new("RGB", (60, 40), "red"), "JPEG", exif=exif)


GREY = Image.new("L", (40, 30), 128)
FRAMES = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
PICTURES = {
    "16-bit": (encoded(Image.fromarray(np.full((30, 40), 128 << 8, dtype=np.uint16))), None),
    "cmyk": (encoded(Image.new("CMYK", (40, 30)), "JPEG"), None),
    "palette": (encoded(GREY.convert("P")), None),
    "animated": (encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], duration=50), None),
    "progressive": (encoded(FRAMES[0], "JPEG", progressive=True), None),
    "turned": (turned(), None),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), None),
    "30,000 x 30,000 claimed": (claims(30_000, 30_000), "image-bomb"),
    "words": (b"no picture", "not-an-image"),
    "empty": (b"", "empty-image"),
    "page": (b"<!doctype html><title>Sign in</title>", "not-an-image"),
}


def ingest_table(folder: Path, table: bytes, *settings: str, name: str = "catalog.csv", **changes) -> dict:
    (folder / name).write_bytes(table)
    (folder / "catalog.yaml").write_text(yaml.safe_dump(described(table=name, **changes)))
    workspace = Workspace(folder / "work")
    return ingest(recipe(TOLERANT, *settings), folder / "catalog.yaml", workspace, Terminal(quiet=True))


def reasons(folder: Path) -> dict[str, str]:
    aside = read_quarantine(folder / "work" / "items" / "quarantine.parquet")
    return dict(zip(aside.id, aside.reason, strict=True))


def texts(folder: Path) -> list[str]:
    items = folder / "work" / "items"
    return [text for entry in read_manifest(items) for text in read_shard(items / entry.file)["text"].to_pylist()]


def lines(ids, pictures=None) -> str:
    pictures = pictures or {}
    return "".join(f"{one},{pictures.get(one, '0.png')},p{n % 3},thing,red,plain\n" for n, one in enumerate(ids))


def test_odd_pictures(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name, (data, _) in PICTURES.items():
        (images / f"{name}.x").write_bytes(data)
    rows = "".join(f'"{name}","{name}.x",p{n % 3},thing,red,plain\n' for n, name in enumerate(PICTURES))
    summary = ingest_table(tmp_path, f"{HEADER}\n{rows}".encode())
    assert reasons(tmp_path) == {name: reason for name, (_, reason) in PICTURES.items() if reason}
    assert summary["ingested"] == sum(reason is None for _, reason in PICTURES.values())


def test_odd_rows(tmp_path):
    small_catalog(tmp_path, 1)
    table = b"\xef\xbb\xbf" + f"{HEADER}\n".encode()
    table += "emoji,0.png,p0,🎽 ثوب أحمر,red,plain\n".encode()
    table += b"cp1252,0.png,p1,Gr\xfc\xdfe,red,plain\n"
    table += b"nul,0.png,p1,a\x00b,red,plain\n"
    table += b"many,0.png,p1,a,b,c,d,e,f\n"
    table += b"long,0.png,p1," + b"x" * 10_000_000 + b",red,plain\n"
    table += b"good,0.png,p1,thing,red,plain"
    summary = ingest_table(tmp_path, table)
    assert texts(tmp_path) == ["🎽 ثوب أحمر; colour: red", "thing; colour: red"]
    assert summary["quarantined"] == {"cell-too-long": 1, "not-in-encoding": 1, "nul-byte": 1, "too-many-cells": 1}
    aside = read_quarantine(tmp_path / "work" / "items" / "quarantine.parquet")
    assert list(aside.row) == [2, 3, 4, 5]
    assert "windows-1252" in aside.detail[0]


def test_half_a_json_line(tmp_path):
    small_catalog(tmp_path, 1)
    whole = "".join(
        f'{{"sku": "{n}", "picture": "0.png", "product": "p{n}", "title": "t", "colour": "c", "pattern": "p"}}\n'
        for n in range(4)
    )
    summary = ingest_table(tmp_path, whole.encode()[:-30], name="catalog.jsonl")
    assert (summary["ingested"], summary["quarantined"]) == (3, {"broken-line": 1})


def test_a_broken_gzip_is_one_error_and_nothing_is_left(tmp_path):
    import gzip

    small_catalog(tmp_path, 1)
    packed = gzip.compress(f"{HEADER}\n{lines(range(3000))}".encode())
    with pytest.raises(InputError, match=r"catalog\.csv\.gz: is a broken gzip file"):
        ingest_table(tmp_path, packed[: len(packed) // 2], name="catalog.csv.gz")
    assert not (tmp_path / "work" / "items").exists()


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **changes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


def test_archives_that_try_to_lead_out(tmp_path):
    secret = encoded(Image.new("RGB", (8, 8)))
    (tmp_path / "secret.png").write_bytes(secret)
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        add(archive, "good.png", secret)
        add(archive, "../slip.png", secret)
        add(archive, "link.png", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret.png"))
        add(archive, "hard.png", type=tarfile.LNKTYPE, linkname="../secret.png")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zipped.png", secret)
        archive.writestr("../../zip-slip.png", secret)
        archive.writestr("bomb.png", bytes(60_000_000))
    names = ("good", "slip", "link", "hard", "zipped", "zip-slip", "bomb", "absent")
    places = {"slip": "../slip.png", "zip-slip": "../../zip-slip.png"}
    table = f"{HEADER}\n" + lines(names, {name: places.get(name, f"{name}.png") for name in names})
    ingest_table(tmp_path, table.encode(), images="photos.*")
    assert reasons(tmp_path) == {
        "slip": "outside-folder",
        "zip-slip": "outside-folder",
        "link": "link-in-archive",
        "hard": "link-in-archive",
        "bomb": "too-many-bytes",
        "absent": "missing-image",
    }


class Shop(http.server.BaseHTTPRequestHandler):
    """A shop's picture server with its faults."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/never":
            time.sleep(8)
        elif self.path == "/private":
            self.answer(302, b"", Location="http://169.254.169.254/latest/meta-data")
        elif self.path == "/page":
            self.answer(200, b"<html>Sign in</html>", **{"Content-Type": "image/png"})
        elif self.path == "/good" or (self.path == "/locked" and SECRET in self.headers["Authorization"]):
            self.answer(200, encoded(Image.new("RGB", (20, 20), "red")))
        else:
            self.answer(404, b"")

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def shop():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_addresses_that_fail(tmp_path, shop):
    names = ("good", "never", "page", "gone")
    table = f"{HEADER}\n" + lines(names, {name: f"{shop}/{name}" for name in names})
    download = {"allow_private": True, "timeout_seconds": 2, "retries": 0}
    ingest_table(tmp_path, table.encode(), download=download, images=None)
    assert reasons(tmp_path) == {"never": "timeout", "page": "not-an-image", "gone": "http-status"}


def test_private_addresses_are_refused_unless_allowed(tmp_path, shop):
    table = f"{HEADER}\n" + lines(("good", "other"), {"good": f"{shop}/good", "other": f"{shop}/private"})
    with pytest.raises(Exception, match="private-address 2"):
        ingest_table(tmp_path, table.encode(), images=None)


SECRET = "s3cr3t-of-the-shop"


def test_a_secret_header_is_sent_and_written_nowhere(tmp_path, shop, monkeypatch):
    """Point 10: neither results, row log, quarantine, caches and tracking nor what is said hold the secret."""
    monkeypatch.setenv("SHOP_KEY", SECRET)
    table = f"{HEADER}\n" + lines(("locked", "gone"), {name: f"{shop}/{name}" for name in ("locked", "gone")})
    (tmp_path / "catalog.csv").write_text(table, encoding="utf-8")
    download = {"allow_private": True, "retries": 0, "headers": {"Authorization": "Bearer ${SHOP_KEY}"}}
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump(described(download=download, images=None)), encoding="utf-8")
    command = [sys.executable, "-m", "mlim", "ingest", "--catalog", str(path), "--work", str(tmp_path / "work")]
    command += ["--set", TOLERANT, "--set", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert reasons(tmp_path) == {"gone": "http-status"}
    assert SECRET not in run.stdout + run.stderr
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert tmp_path / "mlflow.db" in written
    assert not [file for file in written if SECRET.encode() in file.read_bytes()]


def full_disk() -> None:
    """No file may grow beyond 100 kB, as if the disk were full there."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_disk_that_fills_is_one_sentence_and_the_next_run_succeeds(tmp_path):
    catalog = small_catalog(tmp_path, 300)
    for number in range(300):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(catalog.images / f"{number}.png")
    catalog.write()
    command = [sys.executable, "-m", "mlim", "ingest", "--catalog", str(catalog.description), "--quiet"]
    command += ["--work", str(tmp_path / "work"), "--set", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    assert subprocess.run(command, capture_output=True).returncode == 0  # makes the tracking database
    before = (tmp_path / "work" / "items" / "manifest.json").read_bytes()
    Image.new("RGB", (64, 64), "red").save(catalog.images / "7.png")
    run = subprocess.run(command, capture_output=True, text=True, preexec_fn=full_disk)
    assert run.returncode == 1, run.stderr
    assert "make room on the disk" in run.stderr
    assert "Traceback" not in run.stderr
    assert (tmp_path / "work" / "items" / "manifest.json").read_bytes() == before
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (tmp_path / "work" / "items" / "manifest.json").read_bytes() != before

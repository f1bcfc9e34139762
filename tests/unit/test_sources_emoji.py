"""The emoji catalog, from archives of the packages' layout that are made here."""

import base64
import csv
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.sources.emoji import COLUMNS, PACKAGES, TONES, Package, _family, fetch_emoji

SANTA, WAVE = "1F385", "270B"
FILES = {
    SANTA: "1f385.png",
    WAVE: "270b-fe0f.png",
    **{f"{SANTA}-{tone}": f"1f385-{tone.lower()}.png" for tone in TONES},
}


def archive(folder: Path, name: str, vendor: str, colour: str, more: dict[str, object]) -> Package:
    """A package with one plain drawing for each glyph, and JSON files."""
    path = folder / f"{name}-1.0.0.tgz"
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(picture, "PNG")
    members = {f"package/img/64/{file}": picture.getvalue() for file in FILES.values()}
    members |= {f"package/{file}": json.dumps(value).encode() for file, value in more.items()}
    with tarfile.open(path, "w:gz") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    sha512 = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return Package(name, "1.0.0", sha512, vendor, "package/img/64/", f"{vendor}: a licence")


@pytest.fixture
def packages(tmp_path):
    tones = {tone: {"unified": f"{SANTA}-{tone}"} for tone in TONES}
    listed = [{"unified": SANTA, "skin_variations": tones}, {"unified": f"{WAVE}-FE0F"}]
    words = [
        {
            "hexcode": code,
            "annotation": name,
            "group": "people",
            "subgroups": "hand",
            "tags": "a, b",
            "openmoji_tags": "b, c",
        }
        for code, name in (
            (SANTA, "Santa"),
            (WAVE, "raised hand"),
            *((f"{SANTA}-{tone}", "Santa: a tone") for tone in TONES),
        )
    ]
    folder = tmp_path / "archives"
    folder.mkdir()
    first = archive(folder, "first", "one", "red", {"emoji.json": listed})
    return [first, archive(folder, "second", "two", "blue", {"data/openmoji.json": words})]


def fetch(tmp_path, packages, name="emoji"):
    fetch_emoji(tmp_path / name, tmp_path / "archives", Terminal(quiet=True), packages)
    with (tmp_path / name / "catalog.csv").open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))


def test_every_glyph_of_every_vendor_is_an_item_of_its_emoji(tmp_path, packages):
    rows = fetch(tmp_path, packages)
    assert len(rows) == len(packages) * (len(TONES) + 2)
    assert list(rows[0]) == list(COLUMNS)
    assert {row["base"] for row in rows} == {SANTA, WAVE}
    assert len({row["glyph"] for row in rows if row["base"] == SANTA}) == 1 + len(TONES)
    for row in rows:
        with Image.open(tmp_path / "emoji" / row["image"]) as picture:
            assert picture.size == (64, 64)
    assert {row["name"] for row in rows} <= {"Santa", "raised hand", ""}  # the tone stands in its own column
    assert {row["tags"] for row in rows} <= {"a, b, c", ""}
    assert "two: a licence" in (tmp_path / "emoji" / "LICENCES.md").read_text()


def test_men_women_and_persons_are_one_family():
    farmers = ("1F468-200D-1F33E", "1F469-200D-1F33E", "1F9D1-200D-1F33E")
    assert {_family(code) for code in farmers} == {"1F9D1-200D-1F33E"}
    assert {_family(code) for code in ("1F3C3", "1F3C3-200D-2640", "1F3C3-200D-2642")} == {"1F3C3"}
    assert _family("1F452") == "1F452"  # a woman's hat is no woman


def test_the_same_archives_give_the_same_bytes(tmp_path, packages):
    fetch(tmp_path, packages, "once")
    fetch(tmp_path, packages, "twice")
    files = sorted(path.relative_to(tmp_path / "once") for path in (tmp_path / "once").rglob("*") if path.is_file())
    assert len(files) > len(FILES)
    for file in files:
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()


def test_an_archive_that_is_not_the_pinned_one_is_refused_and_nothing_is_written(tmp_path, packages):
    path = tmp_path / "archives" / packages[1].file
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match="not that of second 1"):
        fetch(tmp_path, packages)
    assert not (tmp_path / "emoji").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, packages):
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="mlim did not make"):
        fetch(tmp_path, packages)
    assert [path.name for path in (tmp_path / "emoji").iterdir()] == ["mine.txt"]


def test_without_npm_the_archives_to_bring_are_named(tmp_path, packages, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"npm is not installed.*first-1\.0\.0\.tgz"):
        fetch_emoji(tmp_path / "emoji", None, Terminal(quiet=True), packages)


def test_drawings_in_svg_are_rendered_alike_everywhere():
    pytest.importorskip("resvg_py", reason="needs the extra `emoji`")
    from mlim.sources.emoji import PICTURE_SIDE, _as_png

    svg = (
        '<svg viewBox="0 0 72 72" xmlns="http://www.w3.org/2000/svg"><circle cx="36" cy="36" r="20" fill="#f00"/></svg>'
    )
    with Image.open(io.BytesIO(_as_png(svg.encode()))) as picture:
        assert picture.size == (PICTURE_SIDE, PICTURE_SIDE)
        assert picture.convert("RGBA").getpixel((36, 36)) == (255, 0, 0, 255)
        assert picture.convert("RGBA").getpixel((1, 1))[3] == 0


def test_the_pinned_packages_have_whole_checksums():
    assert all(len(base64.b64decode(package.sha512)) == hashlib.sha512().digest_size for package in PACKAGES)

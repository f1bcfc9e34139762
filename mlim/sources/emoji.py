"""`mlim catalog fetch emoji`: a real catalog that anyone can rebuild, byte for byte.

Three vendors draw the same emoji in their own style and give their drawings away: Google (Noto), Twitter (Twemoji) and
OpenMoji. The npm registry carries them in versions that never change; npm fetches them and this module checks them. An
item is one vendor's drawing of one glyph. Glyphs that differ only in the tone of the skin and in the gender are one
family; two drawings of one glyph match. The text names the emoji; a part of the items leaves out the name, the tags or
the tone, as the texts of shops do.
"""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.files import atomic_folder, check_claim, mark, write_csv

CATALOG_FILE: Final = "catalog.csv"
LICENCES: Final = "LICENCES.md"
LIST_FILE: Final = "package/emoji.json"  # which emoji there are, in which tones
WORDS_FILE: Final = "package/data/openmoji.json"  # what they are called
COLUMNS: Final = ("id", "image", "base", "glyph", "vendor", "group", "name", "subgroup", "tags", "tone")
NPM_SECONDS: Final = 600
SVG_FOLDER: Final = "svg/"
PICTURE_SIDE: Final = 72  # pixels to which OpenMoji's drawings are rendered: their own grid
LARGEST_MEMBER: Final = 1 << 24  # bytes
SELECTOR: Final = "FE0F"  # asks for the coloured form; vendors write it or leave it out
PERSON: Final = "1F9D1"
PEOPLE: Final = {"1F468": PERSON, "1F469": PERSON}  # a man and a woman, where they begin a sequence: a farmer, a cook
SIGNS: Final = ("-200D-2640", "-200D-2642")  # make a woman or a man of a person who does something
TONES: Final = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}
MISSING: Final = {"name": 0.15, "tags": 0.3, "tone": 0.5}  # shares of the items whose text leaves it out


@dataclass(frozen=True)
class Package:
    """One package of the npm registry: its version, the SHA-512 that npm publishes, and what is taken out of it."""

    name: str
    version: str
    sha512: str
    vendor: str
    pictures: str
    licence: str

    @property
    def file(self) -> str:
        """The archive as npm names it."""
        return f"{self.name}-{self.version}.tgz"


PACKAGES: Final = (
    Package(
        "emoji-datasource-google",
        "16.0.0",
        "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
        "google",
        "package/img/google/64/",
        "Noto Emoji, Google: Apache License 2.0 (https://github.com/googlefonts/noto-emoji)",
    ),
    Package(
        "emoji-datasource-twitter",
        "16.0.0",
        "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
        "twitter",
        "package/img/twitter/64/",
        "Twemoji, Twitter, Inc and other contributors: CC-BY 4.0 (https://github.com/jdecked/twemoji)",
    ),
    Package(
        "openmoji",
        "17.0.0",
        "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
        "openmoji",
        "package/color/svg/",
        "OpenMoji, the open-source emoji and icon project: CC BY-SA 4.0 (https://openmoji.org)",
    ),
)


Contents = Mapping[Package, Mapping[str, bytes]]  # what is needed of each package, by the names of its members


@dataclass(frozen=True)
class Glyph:
    """One emoji in one tone. `code` is its code points without the selector, `base` that without tone and gender."""

    code: str
    base: str
    tone: str
    name: str
    group: str
    subgroup: str
    tags: str


def fetch_emoji(out: Path, archives: Path | None, terminal: Terminal, packages: Sequence[Package] = PACKAGES) -> None:
    """Write images/, catalog.csv and LICENCES.md into `out`, the same bytes every time.

    `archives` holds the packages' .tgz files already; None: npm fetches them. `InputError` when npm or the renderer is
    missing or `out` holds something that mlim did not make, `DataError` for an archive that is not the pinned one.
    """
    check_claim(out, str(out))
    if any(package.pictures.endswith(SVG_FOLDER) for package in packages):
        _renderer()  # before anything is fetched
    with TemporaryDirectory() as temporary:
        place = archives or _npm(packages, Path(temporary), terminal)
        contents = {package: _checked(place / package.file, package) for package in packages}
        glyphs = _glyphs(contents)
        with atomic_folder(out) as folder:
            mark(folder)
            _write(folder, glyphs, contents, terminal)
    terminal.say(f"{out}: {len(glyphs)} emoji drawn by {len(packages)} vendors; export MLIM_EMOJI={out.resolve()}")
    for package in packages:
        terminal.say(f"  {package.licence}")


def _npm(packages: Sequence[Package], folder: Path, terminal: Terminal) -> Path:
    """The packages' archives, fetched by npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            "npm is not installed, which fetches the drawings; install Node.js, or give --archives FOLDER with "
            + ", ".join(package.file for package in packages)
        )
    for package in packages:
        with terminal.waiting(f"npm fetches {package.name}"):
            _pack(npm, package, folder)
    return folder


def _pack(npm: str, package: Package, folder: Path) -> None:
    command = [npm, "pack", f"{package.name}@{package.version}", "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NPM_SECONDS, check=False)  # noqa: S603
        reason = (done.stderr.strip().splitlines() or ["it does not say why"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"no answer in {NPM_SECONDS} s"
    if reason:
        raise MlimError(f"npm could not fetch {package.name} {package.version} ({reason}); try again later")


def _checked(path: Path, package: Package) -> dict[str, bytes]:
    """What is needed of an archive, by the names of its members; `DataError` unless it is the pinned one."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it is made by npm pack {package.name}") from None
    found = base64.b64encode(hashlib.sha512(data).digest()).decode("ascii")
    if found != package.sha512:
        raise DataError(f"{path}: its SHA-512 is {found}, not that of {package.name} {package.version}; fetch it again")
    taken: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for member in tar:
            needed = member.name.startswith(package.pictures) or member.name in (LIST_FILE, WORDS_FILE)
            source = tar.extractfile(member) if needed else None
            if source is not None and member.size <= LARGEST_MEMBER:
                taken[member.name] = source.read()
    return taken


def _glyphs(contents: Contents) -> list[Glyph]:
    """Every emoji that all vendors draw, in the order of their codes."""
    words = {_plain(each["hexcode"]): each for each in _json(contents, WORDS_FILE)}
    drawn = [set(_drawings(members, package)) for package, members in contents.items()]
    listed = _json(contents, LIST_FILE)
    glyphs = (
        _glyph(code, base, words[base])
        for base, code in chain.from_iterable(map(_codes, listed))
        if code in words and all(code in codes for codes in drawn)
    )
    return sorted(glyphs, key=lambda glyph: (glyph.base, glyph.code))


def _json(contents: Contents, name: str) -> Any:
    """What is in a JSON file of the first package that has it."""
    return json.loads(next(members[name] for members in contents.values() if name in members))


def _codes(emoji: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The codes of an emoji without a tone and in every tone, each behind the first."""
    base = _plain(emoji["unified"])
    yield base, base
    for variation in emoji.get("skin_variations", {}).values():
        yield base, _plain(variation["unified"])


def _glyph(code: str, base: str, words: Mapping[str, Any]) -> Glyph:
    tones = " and ".join(TONES[part] for part in code.split("-") if part in TONES)
    tags = ", ".join(
        dict.fromkeys(filter(None, map(str.strip, f"{words['tags']},{words['openmoji_tags']}".split(","))))
    )
    return Glyph(code, _family(base), tones, words["annotation"], words["group"], words["subgroups"], tags)


def _family(base: str) -> str:
    """The code of an emoji without tone that its men, women and persons have in common."""
    for sign in SIGNS:
        base = base.replace(sign, "")
    return "-".join(PEOPLE.get(part, part) for part in base.split("-"))


def _plain(code: str) -> str:
    return "-".join(part for part in code.upper().split("-") if part != SELECTOR)


def _drawings(members: Mapping[str, bytes], package: Package) -> dict[str, bytes]:
    """The drawings of one vendor by their code."""
    pictures = ((Path(name).stem, data) for name, data in members.items() if name.startswith(package.pictures))
    return {_plain(stem): data for stem, data in pictures}


def _write(folder: Path, glyphs: Sequence[Glyph], contents: Contents, terminal: Terminal) -> None:
    rows: list[dict[str, str]] = []
    with terminal.progress("drawings", len(glyphs) * len(contents)) as bar:
        for package, members in contents.items():
            drawings = _drawings(members, package)
            (folder / "images" / package.vendor).mkdir(parents=True)
            for glyph in glyphs:
                row = _row(glyph, package.vendor)
                (folder / row["image"]).write_bytes(_as_png(drawings[glyph.code]))
                rows.append(row)
                bar.advance()
    write_csv(folder / CATALOG_FILE, rows, COLUMNS)
    licences = ["# Licences of the drawings", "", *(f"- {package.licence}" for package in contents), ""]
    (folder / LICENCES).write_text("\n".join(licences), encoding="utf-8")


def _row(glyph: Glyph, vendor: str) -> dict[str, str]:
    name = f"{vendor}-{glyph.code.lower()}"
    named = {"name": glyph.name, "tags": glyph.tags, "tone": glyph.tone}
    shown = {column: "" if _left_out(name, column) else value for column, value in named.items()}
    return {
        "id": name,
        "image": f"images/{vendor}/{glyph.code.lower()}.png",
        "base": glyph.base,
        "glyph": glyph.code,
        "vendor": vendor,
        "group": glyph.group,
        "subgroup": glyph.subgroup,
        **shown,
    }


def _left_out(item: str, column: str) -> bool:
    """Whether an item's text leaves a column out: a draw that depends on nothing but their names."""
    digest = hashlib.sha256(f"{item} {column}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < MISSING[column]


def _as_png(data: bytes) -> bytes:
    if data.startswith(b"\x89PNG"):
        return data
    picture = _renderer().svg_to_bytes(
        svg_string=data.decode("utf-8"), width=PICTURE_SIDE, height=PICTURE_SIDE, skip_system_fonts=True
    )
    return bytes(picture)


def _renderer() -> Any:
    try:
        import resvg_py
    except ImportError:
        raise InputError(
            "resvg-py is not installed, which renders OpenMoji's drawings; run `pip install 'mlim[emoji]'`"
        ) from None
    return resvg_py

"""`mlim catalog build hm-fashion`: the fashion catalog, from H&M's public download that one already has.

Kaggle's competition "H&M Personalized Fashion Recommendations" (2022) has articles.csv and images/0XX/0XXXXXXXXX.jpg:
some 105,000 articles, 30 GB of pictures. The data are for research only: nothing is fetched and nothing may be passed
on. The catalog holds whole products, drawn by nothing but their codes, or the articles that a list names.
"""

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from PIL import Image

from mlim.console import Terminal
from mlim.errors import DataError, InputError
from mlim.files import atomic_folder, check_claim, mark

ARTICLES_FILE: Final = "articles.csv"
CATALOG_FILE: Final = "catalog.csv"
DESCRIPTION: Final = "catalog.yaml"
RULES: Final = "hm_fashion.yaml"
PLACE: Final = "${MLIM_HM_FASHION}"  # what the description of the catalog calls the folder
ARTICLES: Final = 11_800
LONGEST_SIDE: Final = 256  # pixels of the pictures that are written: the published ones are 1166 x 1750
JPEG_QUALITY: Final = 85
ID_DIGITS: Final = 10
FOLDER_DIGITS: Final = 3
LARGEST_PICTURE: Final = 1 << 26  # bytes
NEEDED: Final = ("article_id", "product_code", "prod_name", "product_type_name", "graphical_appearance_name")
LICENCE: Final = (
    "H&M Personalized Fashion Recommendations (c) H&M, Kaggle 2022: the competition's rules allow non-commercial and "
    "academic research only (https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/rules). "
    "Keep the catalog, its pictures and models that show them to yourself."
)

Row = Mapping[str, str]


class Download:
    """Kaggle's download: a folder, or its zip as it came."""

    def __init__(self, place: Path) -> None:
        self.place = place
        if not place.is_dir() and not zipfile.is_zipfile(place):
            raise InputError(f"--from {place}: is neither a folder nor a zip; give what Kaggle's download made")
        self._zip = None if place.is_dir() else zipfile.ZipFile(place)
        self._names: frozenset[str] = frozenset() if self._zip is None else frozenset(self._zip.namelist())

    def has(self, name: str) -> bool:
        """Whether a file of this name, from the download's top, is there."""
        return (self.place / name).is_file() if self._zip is None else name in self._names

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of a file; of a longer one the first `most`."""
        with (self.place / name).open("rb") if self._zip is None else self._zip.open(name) as source:
            return source.read(-1 if most is None else most)


@dataclass(frozen=True)
class Built:
    """What was written, and how many articles were left out because their picture is missing or broken."""

    articles: int
    products: int
    without_picture: int
    broken: int


def build_hm_fashion(
    download: Path, out: Path, terminal: Terminal, articles: int = ARTICLES, listed: Path | None = None
) -> Built:
    """Write catalog.csv, images/ and catalog.yaml into `out`: the same download gives the same articles.

    `listed` names a CSV with a column article_id, whose articles are taken instead of a draw of about `articles`.
    `InputError` for a download without what is needed, or an `out` that holds something that mlim did not make.
    """
    check_claim(out, str(out))
    source = Download(download)
    rows = _articles(source)
    pictured = [row for row in rows if source.has(_published(row["article_id"]))]
    if not pictured:
        raise InputError(f"--from {download}: no article has a picture such as {_published(rows[0]['article_id'])}")
    chosen = _chosen(pictured, articles) if listed is None else _named(pictured, listed)
    terminal.say(LICENCE)
    with atomic_folder(out) as folder:
        mark(folder)
        kept = list(_with_pictures(chosen, source, folder, terminal))
        if not kept:
            raise DataError(f"--from {download}: none of {len(chosen)} pictures can be opened")
        _write_table(folder / CATALOG_FILE, kept)
        (folder / DESCRIPTION).write_text(_description(), encoding="utf-8")
    products = len({row["product_code"] for row in kept})
    return Built(len(kept), products, len(rows) - len(pictured), len(chosen) - len(kept))


def _articles(source: Download) -> list[dict[str, str]]:
    """The rows of articles.csv, their ids with all digits, in the order of the ids."""
    if not source.has(ARTICLES_FILE):
        raise InputError(f"--from {source.place}: has no {ARTICLES_FILE}; give the folder or zip that holds it")
    table = csv.DictReader(io.StringIO(source.read(ARTICLES_FILE).decode("utf-8-sig"), newline=""))
    missing = [column for column in NEEDED if column not in (table.fieldnames or ())]
    if missing:
        raise InputError(f"--from {source.place}: {ARTICLES_FILE} lacks {', '.join(missing)}: is it the competition's?")
    rows = [{**row, "article_id": row["article_id"].zfill(ID_DIGITS)} for row in table]
    if not rows:
        raise InputError(f"--from {source.place}: {ARTICLES_FILE} has no rows")
    return sorted(rows, key=lambda row: row["article_id"])


def _published(article: str) -> str:
    """Where the download has the picture of an article."""
    return f"images/{article[:FOLDER_DIGITS]}/{article}.jpg"


def _chosen(rows: Sequence[dict[str, str]], articles: int) -> list[dict[str, str]]:
    """Whole products in the order of the hashes of their codes, until there are `articles`; in the order of ids."""
    products: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        products.setdefault(row["product_code"], []).append(row)
    chosen: list[dict[str, str]] = []
    for code in sorted(products, key=lambda code: hashlib.sha256(code.encode()).digest()):
        if len(chosen) >= articles:
            break
        chosen += products[code]
    return sorted(chosen, key=lambda row: row["article_id"])


def _named(rows: Sequence[dict[str, str]], listed: Path) -> list[dict[str, str]]:
    """The articles of a list; `InputError` when the download lacks one, or its picture."""
    try:
        with listed.open(encoding="utf-8-sig", newline="") as source:
            wanted = {(row.get("article_id") or "").zfill(ID_DIGITS) for row in csv.DictReader(source)}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--ids {listed}: cannot be read ({error})") from None
    chosen = [row for row in rows if row["article_id"] in wanted]
    absent = sorted(wanted - {row["article_id"] for row in chosen})
    if absent:
        raise InputError(f"--ids {listed}: {len(absent)} articles have no row or picture in the download ({absent[0]})")
    return chosen


def _with_pictures(
    rows: Sequence[dict[str, str]], source: Download, folder: Path, terminal: Terminal
) -> Iterator[dict[str, str]]:
    """The rows whose picture was written into `folder`, with the column `image`."""
    (folder / "images").mkdir()
    with terminal.progress("pictures", len(rows)) as bar:
        for row in rows:
            image = f"images/{row['article_id']}.jpg"
            jpeg = _shrunk(source.read(_published(row["article_id"]), LARGEST_PICTURE))
            bar.advance()
            if jpeg is not None:
                (folder / image).write_bytes(jpeg)
                yield {"image": image, **row}


def _shrunk(data: bytes) -> bytes | None:
    """A JPEG whose longest side is LONGEST_SIDE at most; None for bytes that are no picture."""
    made = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as picture:
            picture.draft("RGB", (2 * LONGEST_SIDE, 2 * LONGEST_SIDE))  # decodes no finer than is needed
            small = picture.convert("RGB")
            small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
            small.save(made, "JPEG", quality=JPEG_QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return made.getvalue()


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    """The table as the download writes its cells: no text is changed."""
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _description() -> str:
    """catalogs/hm_fashion.yaml, with the table and the pictures beside it."""
    committed = Path(__file__).parents[2] / "catalogs" / RULES
    packaged = resources.files("mlim") / "catalogs" / RULES  # a wheel has it there (pyproject.toml)
    text = (committed if committed.is_file() else packaged).read_text("utf-8")
    return text.replace(f"{PLACE}/{CATALOG_FILE}", CATALOG_FILE).replace(PLACE, ".")

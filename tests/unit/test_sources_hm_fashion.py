"""The fashion catalog, from a download of the published layout that is made here."""

import csv
import io
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mlim.console import Terminal
from mlim.errors import InputError
from mlim.sources.hm_fashion import LONGEST_SIDE, build_hm_fashion

ROOT = Path(__file__).parents[2]
COLUMNS = ("article_id", "product_code", "prod_name", "product_type_name", "graphical_appearance_name", "detail_desc")
PRODUCTS, COLOURS = 12, 3
WITHOUT_PICTURE, BROKEN = "0100002002", "0100003001"


def picture() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (600, 900), "navy").save(made, "JPEG")
    return made.getvalue()


@pytest.fixture
def download(tmp_path):
    """articles.csv, whose ids lack the leading zero as some copies do, and images/0XX/0XXXXXXXXX.jpg."""
    folder = tmp_path / "download"
    codes = [f"100{number:03d}" for number in range(PRODUCTS)]
    rows = [
        (f"{code}{at:03d}", code, f"+Top {code}", "T-shirt", "Solid", 'soft, "fine"')
        for code in codes
        for at in (1, 2, 3)
    ]
    (folder / "images" / "010").mkdir(parents=True)
    with (folder / "articles.csv").open("w", encoding="utf-8", newline="") as target:
        csv.writer(target).writerows([COLUMNS, *rows])
    for article in (row[0].zfill(10) for row in rows):
        if article != WITHOUT_PICTURE:
            data = b"no picture" if article == BROKEN else picture()
            (folder / "images" / article[:3] / f"{article}.jpg").write_bytes(data)
    return folder


def build(download, out, **options):
    built = build_hm_fashion(download, out, Terminal(quiet=True), **options)
    with (out / "catalog.csv").open(encoding="utf-8", newline="") as source:
        return built, list(csv.DictReader(source))


def test_all_articles_with_a_picture_are_there_and_their_words_unchanged(download, tmp_path):
    built, rows = build(download, tmp_path / "out")
    assert (built.articles, built.products) == (PRODUCTS * COLOURS - 2, PRODUCTS)
    assert (built.without_picture, built.broken) == (1, 1)
    assert tuple(rows[0]) == ("image", *COLUMNS)
    assert [row["article_id"] for row in rows] == sorted(row["article_id"] for row in rows)
    assert not {WITHOUT_PICTURE, BROKEN} & {row["article_id"] for row in rows}
    assert rows[0]["prod_name"] == "+Top 100000"
    for row in rows:
        with Image.open(tmp_path / "out" / row["image"]) as shown:
            assert shown.size == (round(LONGEST_SIDE * 600 / 900), LONGEST_SIDE)


def test_a_part_is_whole_products_and_the_same_from_the_folder_and_its_zip(download, tmp_path):
    _, rows = build(download, tmp_path / "part", articles=9)
    counts = [sum(row["product_code"] == code for row in rows) for code in {row["product_code"] for row in rows}]
    assert len(rows) in range(7, 12)  # one picture may be broken, one missing, and the last product is whole
    assert set(counts) <= {COLOURS, COLOURS - 1}
    archive = tmp_path / "download.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(download.rglob("*.*")):
            target.write(file, file.relative_to(download))
    shutil.rmtree(download)
    assert build(archive, tmp_path / "zipped", articles=9)[1] == rows


def test_a_list_of_articles_is_taken_as_it_is(download, tmp_path):
    listed = tmp_path / "ids.csv"
    listed.write_text("article_id,price\n0100001001,3\n100005002,4\n")
    _, rows = build(download, tmp_path / "out", listed=listed)
    assert [row["article_id"] for row in rows] == ["0100001001", "0100005002"]
    listed.write_text(f"article_id\n{WITHOUT_PICTURE}\n")
    with pytest.raises(InputError, match=f"1 articles have no row or picture.*{WITHOUT_PICTURE}"):
        build(download, tmp_path / "other", listed=listed)


def test_the_description_is_the_projects_own_rule_beside_its_table(download, tmp_path):
    build(download, tmp_path / "out")
    made = yaml.safe_load((tmp_path / "out" / "catalog.yaml").read_text())
    ours = yaml.safe_load((ROOT / "catalogs" / "hm_fashion.yaml").read_text())
    assert (made.pop("table"), made.pop("images")) == ("catalog.csv", ".")
    assert made == {key: value for key, value in ours.items() if key not in ("table", "images")}


def test_what_is_no_download_is_refused_and_nothing_is_written(download, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="mlim did not make"):
        build(download, tmp_path / "out")
    (download / "articles.csv").write_text("article_id,name\n1,a\n")
    with pytest.raises(InputError, match="lacks product_code"):
        build(download, tmp_path / "new")
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        build(tmp_path / "absent", tmp_path / "new")
    assert not (tmp_path / "new").exists()

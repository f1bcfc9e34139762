"""A "no image" picture on many items, from the table to the page that shows what it ties."""

import numpy as np
import pytest
from PIL import Image

from mlim.catalog.quarantine import read_quarantine
from mlim.console import Terminal
from mlim.errors import DataError
from mlim.report.contact.page import contact_sheet
from mlim.report.contact.settings import settings_for
from mlim.steps.pairs import make_pairs
from mlim.steps.validate import validate
from tests.small_catalog import SmallCatalog, recipe, small_catalog

pytestmark = pytest.mark.integration

ROWS, WITHOUT_PICTURE = 96, 24
LIMITS = ["validation.min_contrast=0", "validation.min_image_side=16", "validation.min_label_share=0"]


@pytest.fixture
def shop(tmp_path) -> SmallCatalog:
    """Families of four, two patterns in each; the first item of every family has the placeholder."""
    catalog, generator = small_catalog(tmp_path / "shop", rows=ROWS), np.random.default_rng(0)
    for number, row in enumerate(catalog.rows):
        row["product"], row["pattern"] = f"p{number // 4}", ("plain", "striped")[number % 2]
        if number % 4 == 0:
            row["picture"] = "0.png"
        noise = generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(catalog.images / f"{number}.png")
    catalog.ingest()
    return catalog


def test_a_placeholder_is_refused_before_the_split(shop):
    """Point 3: items that share one picture over many families are quarantined, and the sentence names the setting."""
    asked = recipe(*LIMITS, "validation.max_quarantined_share=0.3")
    summary = validate(asked, shop.description, shop.work(), Terminal(quiet=True))
    assert summary["quarantined"] == {"placeholder-picture": WITHOUT_PICTURE}
    aside = read_quarantine(shop.work().valid / "quarantine.parquet")
    assert aside["detail"].str.contains("validation.max_picture_share", regex=False).all()
    made = make_pairs(asked, shop.description, shop.work(), Terminal(quiet=True))
    assert made["largest_component"] == 3
    assert made["ties"] == []


def test_too_many_placeholders_stop_the_run_with_what_lets_the_rest_through(shop):
    """Point 3: the sentence gives the value that helps."""
    with pytest.raises(DataError, match=r"placeholder-picture 24.*max_quarantined_share=0\.2[56]"):
        validate(recipe(*LIMITS), shop.description, shop.work(), Terminal(quiet=True))


def test_a_picture_that_ties_everything_is_named_where_no_split_can_be_made(shop):
    """Point 3: not "give more families", but the picture, its count and the setting that unties them."""
    asked = recipe(*LIMITS, "validation.max_picture_share=1")
    validate(asked, shop.description, shop.work(), Terminal(quiet=True))
    message = r"96 of 96 items are tied.*one picture is on 24 items \(such as 00\d+\); with validation.max_picture_us"
    with pytest.raises(DataError, match=message):
        make_pairs(asked, shop.description, shop.work(), Terminal(quiet=True))


def test_a_picture_that_ties_many_is_named_and_shown(shop, tmp_path):
    """Point 3: the warning, the picture beside the pairs, and the contact sheet say the same."""
    for number, row in enumerate(shop.rows):
        if number >= ROWS // 2:
            row["picture"] = f"{number}.png"
    shop.ingest()
    asked = recipe(*LIMITS, "validation.max_picture_share=1")
    validate(asked, shop.description, shop.work(), Terminal(quiet=True))
    made = make_pairs(asked, shop.description, shop.work(), Terminal(quiet=True))
    assert made["largest_component"] == ROWS // 2
    assert made["ties"][0]["kind"] == "picture"
    assert made["ties"][0]["items"] == WITHOUT_PICTURE // 2
    assert (shop.work().pairs / "tying_picture.jpg").read_bytes().startswith(b"\xff\xd8")
    page = tmp_path / "sheet.html"
    contact_sheet(shop.description, shop.work(), page, settings_for(asked.ingest, items=8, seed=0))
    text = page.read_text()
    assert f"What ties {ROWS // 2} items into one split" in text
    assert f"{ROWS // 2} items are tied into one split: one picture is on {WITHOUT_PICTURE // 2} items" in text

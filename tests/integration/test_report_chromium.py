"""The page in a real browser: drawn at desktop and telephone width, and never wider than the screen."""

from pathlib import Path

import pytest
from PIL import Image
from report_results import fill

from mlim.report.page import render
from mlim.steps.gathered import gather, reported
from scripts.chromium import photograph, widths_in_frame

pytestmark = pytest.mark.integration


@pytest.fixture
def page(own_workspace, tiny_recipe, tmp_path) -> Path:
    fill(own_workspace, tiny_recipe)
    lineage = {"commit": "0123abc", "dirty": False, "data_version": "feed", "validation": "passed"}
    path = tmp_path / "index.html"
    gathered = gather(tiny_recipe, own_workspace)
    path.write_text(render(reported(tiny_recipe), gathered, own_workspace, lineage), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(browser, page, width):
    scrolled, shown = widths_in_frame(browser, page, width)
    assert width - 20 <= shown <= width  # the frame's own scrollbar takes some pixels
    assert scrolled <= shown


def test_the_page_is_drawn(browser, page, tmp_path):
    picture = tmp_path / "page.png"
    photograph(browser, page.as_uri(), picture, 1280, 2000)
    with Image.open(picture) as drawn:
        assert drawn.size[0] == 1280
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 50

"""The page of an explanation in a real browser: never wider than the screen, drawn with its outlines."""

from pathlib import Path

import pytest
from PIL import Image

from mlim.report.explanation.page import render, write_page
from scripts.chromium import photograph, widths_in_frame
from tests.unit.test_explain import SECOND, item
from tests.unit.test_explain_page import explained

pytestmark = pytest.mark.integration


@pytest.fixture
def page(tmp_path) -> Path:
    long = item(250, title="a-title-without-any-blank" * 20, colour="red", cloth="")
    write_page(explained(long, SECOND, names=("an-id" * 30, "item-2")), tmp_path / "explanation.html")
    return tmp_path / "explanation.html"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(browser, page, width):
    scrolled, shown = widths_in_frame(browser, page, width)
    assert width - 20 <= shown <= width  # the frame's own scrollbar takes some pixels
    assert scrolled <= shown


def test_the_outlines_are_drawn_over_the_pictures(browser, tmp_path):
    source, drawn = render(explained(threshold=0.0)), []
    for name, text in (("with", source), ("without", source.replace('<rect class="over"', "<g"))):
        (tmp_path / f"{name}.html").write_text(text)
        photograph(browser, (tmp_path / f"{name}.html").as_uri(), tmp_path / f"{name}.png", 1280, 2000)
        with Image.open(tmp_path / f"{name}.png") as picture:
            drawn.append(picture.convert("RGB").tobytes())
    assert drawn[0] != drawn[1]

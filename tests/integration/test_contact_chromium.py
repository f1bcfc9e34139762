"""The contact sheet in a real browser without a network: drawn, never wider than the screen, asking for nothing."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mlim.catalog.item import QUARANTINE_SCHEMA
from mlim.files import read_json, write_json
from mlim.report.contact.page import contact_sheet
from mlim.report.contact.settings import ContactSettings
from scripts.chromium import NO_NETWORK, photograph, rendered, widths_in_frame

pytestmark = pytest.mark.integration

OWN_ADDRESSES = re.compile(r"https?://([\w.-]+\.)?(google|googleapis|gstatic)\.com\b")  # the browser's, of no page
HOSTILE = '<script src="http://evil.example/a.js"></script><img src="http://evil.example/b.png">' + "long" * 100


@pytest.fixture
def page(own_workspace, tmp_path) -> Path:
    """A sheet with every section, and texts of the catalog that would fetch something if they were not escaped."""
    row = {"source": HOSTILE, "row": 3, "id": HOSTILE, "stage": "ingest", "reason": "no-text", "detail": HOSTILE}
    rows = pa.Table.from_pylist([{**row, "thumbnail": None}], schema=QUARANTINE_SCHEMA)
    pq.write_table(rows, own_workspace.items / "quarantine.parquet")
    path = own_workspace.pairs / "summary.json"
    leak = {"rule": HOSTILE, "pr_auc": 0.9, "leaks": True, "note": HOSTILE}
    write_json(path, {**read_json(path), "leak_audit": [leak]})
    contact_sheet(None, own_workspace, tmp_path / "sheet.html", ContactSettings())
    return tmp_path / "sheet.html"


def asked_for(browser: str, address: str, folder: Path) -> set[str]:
    """The http addresses that a page made the browser ask for, whether or not they answered."""
    log = folder / "net.json"
    rendered(browser, address, NO_NETWORK, f"--log-net-log={log}")
    found = set(re.findall(r"https?://[\w.-]+", log.read_text(encoding="utf-8", errors="replace")))
    return {address for address in found if not OWN_ADDRESSES.match(address)}


@pytest.mark.parametrize("width", [390, 1280])
def test_the_sheet_never_scrolls_sideways(browser, page, width):
    scrolled, shown = widths_in_frame(browser, page, width)
    assert width - 20 <= shown <= width  # the frame's own scrollbar takes some pixels
    assert scrolled <= shown


def test_the_sheet_is_drawn_with_its_pictures(browser, page, tmp_path):
    picture = tmp_path / "page.png"
    photograph(browser, page.as_uri(), picture, 1280, 2000)
    with Image.open(picture) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24)}
    for red, green, blue in ((210, 40, 40), (40, 170, 60), (50, 70, 200)):  # of the tiny catalog's items
        assert any(abs(r - red) + abs(g - green) + abs(b - blue) < 30 for r, g, b in colours)


def test_the_sheet_asks_for_nothing(browser, page, tmp_path):
    assert asked_for(browser, page.as_uri(), tmp_path) == set()


def test_a_page_that_asks_for_something_would_be_noticed(browser, tmp_path):
    (tmp_path / "page.html").write_text(HOSTILE)
    assert asked_for(browser, (tmp_path / "page.html").as_uri(), tmp_path) == {"http://evil.example"}

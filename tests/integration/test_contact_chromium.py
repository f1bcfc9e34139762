"""The contact sheet in a real browser without a network: drawn, never wider than the screen, asking for nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mlim.catalog.item import QUARANTINE_SCHEMA
from mlim.files import read_json, write_json
from mlim.report.contact.page import contact_sheet
from mlim.report.contact.settings import ContactSettings

pytestmark = pytest.mark.integration

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 120
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
    "--virtual-time-budget=3000",
)
OWN_ADDRESSES = re.compile(r"https?://([\w.-]+\.)?(google|googleapis|gstatic)\.com\b")  # the browser's, of no page
HOSTILE = '<script src="http://evil.example/a.js"></script><img src="http://evil.example/b.png">' + "long" * 100
# A browser window cannot be as narrow as a telephone, a frame can. The script is the test's, not the page's.
FRAME = """<body style="margin:0"><iframe src="{page}" width="{width}" height="3000" style="border:0"></iframe>
<script>onload = () => {{
  const root = document.querySelector("iframe").contentDocument.documentElement;
  document.title = "width " + root.scrollWidth + " of " + root.clientWidth;
}}</script></body>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on PATH")
    return found


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


def run_browser(browser: str, profile: Path, *arguments: str) -> str:
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


def asked_for(browser: str, address: str, folder: Path) -> set[str]:
    """The http addresses that a page made the browser ask for, whether or not they answered."""
    log = folder / "net.json"
    run_browser(browser, folder / "profile", f"--log-net-log={log}", "--dump-dom", address)
    found = set(re.findall(r"https?://[\w.-]+", log.read_text(encoding="utf-8", errors="replace")))
    return {address for address in found if not OWN_ADDRESSES.match(address)}


@pytest.mark.parametrize("width", [390, 1280])
def test_the_sheet_never_scrolls_sideways(browser, page, tmp_path, width):
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width))
    document = run_browser(browser, tmp_path / "profile", "--dump-dom", frame.as_uri())
    scrolled, shown = map(int, re.search(r"<title>width (\d+) of (\d+)</title>", document).groups())
    assert width - 20 <= shown <= width  # the frame's own scrollbar takes some pixels
    assert scrolled <= shown


def test_the_sheet_is_drawn_with_its_pictures(browser, page, tmp_path):
    picture = tmp_path / "page.png"
    run_browser(browser, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1280,2000", page.as_uri())
    with Image.open(picture) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 24)}
    for red, green, blue in ((210, 40, 40), (40, 170, 60), (50, 70, 200)):  # of the tiny catalog's items
        assert any(abs(r - red) + abs(g - green) + abs(b - blue) < 30 for r, g, b in colours)


def test_the_sheet_asks_for_nothing(browser, page, tmp_path):
    assert asked_for(browser, page.as_uri(), tmp_path) == set()


def test_a_page_that_asks_for_something_would_be_noticed(browser, tmp_path):
    (tmp_path / "page.html").write_text(HOSTILE)
    assert asked_for(browser, (tmp_path / "page.html").as_uri(), tmp_path) == {"http://evil.example"}

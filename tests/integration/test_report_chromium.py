"""The page in a real browser: drawn at desktop and telephone width, and never wider than the screen."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from report_results import fill

from mlim.report.gather import gather
from mlim.report.page import render

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
)
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
def page(own_workspace, tiny_recipe, tmp_path) -> Path:
    fill(own_workspace, tiny_recipe)
    lineage = {"commit": "0123abc", "dirty": False, "data_version": "feed", "validation": "passed"}
    path = tmp_path / "index.html"
    path.write_text(render(tiny_recipe, gather(tiny_recipe, own_workspace), own_workspace, lineage), encoding="utf-8")
    return path


def run_browser(browser: str, profile: Path, *arguments: str) -> str:
    command = [browser, *FLAGS, f"--user-data-dir={profile}", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    return ran.stdout


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(browser, page, tmp_path, width):
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri(), width=width))
    document = run_browser(browser, tmp_path / "profile", "--virtual-time-budget=3000", "--dump-dom", frame.as_uri())
    scrolled, shown = map(int, re.search(r"<title>width (\d+) of (\d+)</title>", document).groups())
    assert width - 20 <= shown <= width  # the frame's own scrollbar takes some pixels
    assert scrolled <= shown


def test_the_page_is_drawn(browser, page, tmp_path):
    picture = tmp_path / "page.png"
    run_browser(browser, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1280,2000", page.as_uri())
    with Image.open(picture) as drawn:
        assert drawn.size[0] == 1280
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 50

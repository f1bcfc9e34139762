"""Headless Chromium, for scripts/contact-pictures.py and the tests that look at pages.

Every call has a profile of its own that is gone afterwards, and the browser asks for nothing on its own account.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 120
RENDER_MILLISECONDS = 4_000  # of the page's own time, which does not wait
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
)
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
# A browser window cannot be as narrow as a telephone, a frame can. The script is the frame's, not the page's.
FRAME = """<body style="margin:0"><iframe src="{page}" width="{width}" height="3000" style="border:0"></iframe>
<script>onload = () => {{
  const root = document.querySelector("iframe").contentDocument.documentElement;
  document.title = "width " + root.scrollWidth + " of " + root.clientWidth;
}}</script></body>"""
FRAME_TITLE = re.compile(r"<title>width (\d+) of (\d+)</title>")


def find_browser() -> str | None:
    """The path of the first browser that is installed; None when there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def require_browser() -> str:
    """The same for a script, which ends with exit status 2 when there is none."""
    if (found := find_browser()) is None:
        print(f"none of {', '.join(BROWSERS)} is on PATH", file=sys.stderr)
        raise SystemExit(2)
    return found


def run_browser(
    browser: str, *arguments: str, milliseconds: int = RENDER_MILLISECONDS, seconds: float = SECONDS
) -> str:
    """Run the browser once and return what it prints; `CalledProcessError` or `TimeoutExpired` when it fails."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:  # the browser's children may still be writing
        own = (f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}")
        command = [browser, *FLAGS, *own, *arguments]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)  # noqa: S603 - ours
    return ran.stdout


def rendered(browser: str, address: str, *arguments: str, milliseconds: int = RENDER_MILLISECONDS) -> str:
    """The page's document after its scripts have run."""
    return run_browser(browser, *arguments, "--dump-dom", address, milliseconds=milliseconds)


def photograph(browser: str, address: str, picture: Path, width: int, height: int) -> None:
    """Write a PNG of the page as a window of this size shows it."""
    run_browser(browser, f"--screenshot={picture}", f"--window-size={width},{height}", address)


def widths_in_frame(browser: str, page: Path, width: int) -> tuple[int, int]:
    """How wide a page on disk is and how much of that a screen of `width` pixels shows."""
    with TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(FRAME.format(page=page.as_uri(), width=width), encoding="utf-8")
        document = rendered(browser, frame.as_uri(), "--allow-file-access-from-files")
    found = FRAME_TITLE.search(document)
    if found is None:
        raise ValueError(f"{page}: the browser did not measure the page; look whether it opens at all")
    return int(found[1]), int(found[2])

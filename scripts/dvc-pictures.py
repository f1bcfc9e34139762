"""Draw the picture of docs/dvc.md: DVC's page of plots of a project, photographed in headless Chromium.

    python scripts/dvc-pictures.py PROJECT docs/images

PROJECT is a folder in which `dvc repro` has ended. Writes dvc-plots.png. The page loads Vega from a CDN; here the same
versions come from npm, because a browser without a network shows nothing else.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from chromium import require_browser
from pages import photograph

SCRIPT = re.compile(r"https://cdn\.jsdelivr\.net/npm/(?P<package>[\w-]+)@(?P<version>[\d.]+)")
SIZE = (1020, 1482)


def main() -> int:
    """Photograph the page; 2 when there is no browser or no npm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("out", type=Path, help="the folder of the picture")
    options = parser.parse_args()
    browser = require_browser()
    if shutil.which("npm") is None:
        print("npm is not on PATH; install Node.js", file=sys.stderr)
        return 2
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dvc", "plots", "show", "--out", folder]
        subprocess.run(command, cwd=options.project, check=True)  # noqa: S603 - ours
        page = Path(folder) / "index.html"
        page.write_text(_with_scripts_beside(page.read_text(encoding="utf-8"), page.parent), encoding="utf-8")
        photograph(browser, page.as_uri(), options.out / "dvc-plots.png", SIZE)
    return 0


def _with_scripts_beside(page: str, folder: Path) -> str:
    """The page with its scripts in `folder`, where npm puts them."""
    for script in SCRIPT.finditer(page):
        package, version = script["package"], script["version"]
        subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=folder, check=True)  # noqa: S603, S607
        with tarfile.open(folder / f"{package}-{version}.tgz") as archive:
            archive.extractall(folder / package, filter="data")
    return SCRIPT.sub(lambda script: "{0}/package/build/{0}.min.js".format(script["package"]), page)


if __name__ == "__main__":
    sys.exit(main())

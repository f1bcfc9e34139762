"""Draw the pictures of docs/contact-sheet.md: pages made by `mlim catalog show`, photographed in headless Chromium.

    python scripts/contact-pictures.py SHEET PICTURE [--from ANCHOR] [--height PIXELS] [--numbers-only]

`--numbers-only` leaves out every product photo (a catalog whose licence does not allow to show them).
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from chromium import photograph, require_browser
from PIL import Image, ImageChops

WIDTH = 1280
TALLEST = 16_000
COLOURS = 256
MARGIN = 24
WITHOUT_PHOTOS = "#items, #samples, .sheet-grid, .pair-grid, section:has(> .sheet-grid), section:has(> .pair-grid)"


def main() -> int:
    """Photograph the sheet; 2 when there is no browser."""
    options = _options()
    browser = require_browser()
    hidden = WITHOUT_PHOTOS if options.numbers_only else ""
    if options.start:
        hidden = ", ".join(filter(None, (hidden, ".top, .jump", f"main > section:not(#{options.start})")))
    with TemporaryDirectory() as folder:
        page, photo = Path(folder) / "page.html", Path(folder) / "photo.png"
        rule = f"{hidden} {{ display: none !important; }}" if hidden else ""
        page.write_text(options.sheet.read_text("utf-8").replace("</style>", f"{rule}</style>", 1), "utf-8")
        photograph(browser, page.as_uri(), photo, WIDTH, TALLEST)
        _trim(photo, options.height).save(options.picture, optimize=True)
    print(f"wrote {options.picture}: {options.picture.stat().st_size} bytes")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sheet", type=Path, help="the page that `mlim catalog show` wrote")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--from", dest="start", default="", help="only the section with this anchor: items, pairs ...")
    parser.add_argument("--height", type=int, default=TALLEST, help="cut below")
    parser.add_argument("--numbers-only", action="store_true", help="no product photos")
    return parser.parse_args()


def _trim(photo: Path, height: int) -> Image.Image:
    """The page without the empty space below it, in few colours so that the file is small."""
    with Image.open(photo) as opened:
        page = opened.convert("RGB")
    background = Image.new("RGB", page.size, page.getpixel((1, page.height - 1)))
    box = ImageChops.difference(page, background).getbbox()
    bottom = min(height, TALLEST if box is None else box[3] + MARGIN)
    return page.crop((0, 0, WIDTH, bottom)).quantize(COLOURS, kmeans=1)


if __name__ == "__main__":
    sys.exit(main())

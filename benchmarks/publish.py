"""Put what a benchmark prints into a document, between its marks, so that no figure is typed by hand.

    python benchmarks/ingest.py speed --images FOLDER | python benchmarks/publish.py ingest-speed docs/benchmarks.md

The document holds the lines `<!-- NAME -->` and `<!-- /NAME -->`; what stands between them is replaced.
"""

import sys
from pathlib import Path

from mlim.files import atomic_file


def publish(name: str, text: str, document: Path) -> None:
    """Replace the block `name` of a document; the document is left alone when it has no such block or text is empty."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = document.read_text(encoding="utf-8")
    if start not in page or end not in page:
        raise SystemExit(f"{document}: has no lines {start} and {end}")
    if not text.strip():
        raise SystemExit(f"nothing came in for {name}: did the benchmark fail?")
    before, after = page.split(start)[0], page.split(end)[1]
    with atomic_file(document) as temporary:
        temporary.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    publish(sys.argv[1], sys.stdin.read(), Path(sys.argv[2]))

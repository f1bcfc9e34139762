"""What do 10^6 to 10^9 items cost? Arithmetic from published measurements, each with a stated law of growth.

    python benchmarks/scale.py [--pairs-per-item 10]

Reads the tables between marks in docs/benchmarks.md, docs/scoring.md and docs/performance.md, so that a new measurement
changes what this prints. Core-hours are of the cores that were measured there.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from measure import table

DOCS = Path(__file__).parent.parent / "docs"
SIZES = (10**6, 10**7, 10**8, 10**9)
CORES = 2  # of the machine that was measured
HOUR, GIBIBYTE, GIGABYTE = 3600, 2**30, 10**9

Row = dict[str, str]


class Stage(NamedTuple):
    """A stage: core-seconds of so many items, the law of growth, and which measurement it starts from."""

    name: str
    core_seconds: Callable[[int], float]
    law: str
    measured: str


def rows(document: str, block: str) -> Iterator[Row]:
    """The rows of all tables of a published block, by column."""
    page = (DOCS / document).read_text(encoding="utf-8")
    lines = page.split(f"<!-- {block} -->")[1].split(f"<!-- /{block} -->")[0].splitlines()
    header: list[str] = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not set(line) <= set("|-: "):
            yield dict(zip(header, cells, strict=True))


def row(document: str, block: str, cells: Row) -> Row:
    """The first row of a block that has these cells."""
    return next(found for found in rows(document, block) if cells.items() <= found.items())


def number(cell: str) -> float:
    """The first number of a cell."""
    return float(re.findall(r"[\d.,]*\d", cell)[0].replace(",", ""))


def linear(each_second: float, cores: int) -> Callable[[int], float]:
    """Core-seconds of items of which so many cores do `each_second`."""
    return lambda items: items * cores / each_second


def stages(pairs_per_item: int) -> list[Stage]:
    """The stages from rows to scores, with what was measured of each."""
    ingest, validate = list(rows("benchmarks.md", "ingest-scale"))[-1], list(rows("benchmarks.md", "validation"))[-1]
    found = row("benchmarks.md", "neighbours", {"system": "mlim"})
    joint = row("scoring.md", "scoring-runtimes", {"read-out": "joint", "way": "mlim score"})
    separate = row("scoring.md", "scoring-runtimes", {"read-out": "separate", "way": "mlim score"})
    searched, vectors = number(found["index"]) + number(found["search"]), 10**7
    pairs, items = number(joint["pairs/s"]), number(separate["pairs/s"]) / number(separate["pairs per item"])
    return [
        Stage("ingest", linear(number(ingest["rows/s"]), CORES), "items", f"{ingest['rows/s']} rows/s"),
        Stage(
            "validate",
            linear(number(validate["items per core-second"]), 1),
            "items",
            f"{validate['items per core-second']} items per core-second",
        ),
        Stage(
            "candidates",
            lambda items: searched * (items / vectors) ** 1.5,
            "items^1.5",
            f"{searched:,.0f} core-seconds of 10,000,000 vectors",
        ),
        Stage(
            "score, read-out joint",
            linear(pairs / pairs_per_item, 1),
            "pairs",
            f"{joint['pairs/s']} pairs/s (one core)",
        ),
        Stage(
            "score, read-out separate", linear(items, 1), "items", f"{items:,.0f} items/s (one core), 100 pairs of each"
        ),
    ]


def storage() -> list[tuple[str, float, str]]:
    """Bytes of an item on disk, by what they are."""
    validated = list(rows("benchmarks.md", "validation"))[-1]
    found = row("benchmarks.md", "neighbours", {"system": "mlim"})
    metadata = number(validated["metadata, GB"]) * GIGABYTE / number(validated["items"])
    index = number(found["GiB on disk"]) * GIBIBYTE / 10**7
    return [("texts and attributes", metadata, "validation"), ("vectors and index", index, "nearest neighbours")]


def main() -> None:
    """Print both tables, and what a pass of pre-training takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs-per-item", type=int, default=10, help="candidates of an item that are scored")
    options = parser.parse_args()
    sizes = [f"{size:,} items" for size in SIZES]
    print("Computed from the published tables by\n")
    print(f"    python benchmarks/scale.py --pairs-per-item {options.pairs_per_item}\n\nCore-hours:\n")
    costs = [
        (one.name, *(f"{one.core_seconds(size) / HOUR:,.1f}" for size in SIZES), one.law, one.measured)
        for one in stages(options.pairs_per_item)
    ]
    print(table(("stage", *sizes, "grows with", "measured"), costs))
    print("\nGB on disk, pictures aside:\n")
    stored = [(name, *(f"{size * each / GIGABYTE:,.1f}" for size in SIZES), block) for name, each, block in storage()]
    print(table(("what", *sizes, "measured with"), stored))
    floor = row("performance.md", "engine-floor", {"device": "NVIDIA H100 80GB HBM3"})
    each = number(floor["samples/s at 50 % MFU"])
    passes = [(f"{size:,}", f"{size / each / HOUR:,.1f}") for size in SIZES]
    print("\nOne pass of pre-training with the recipe `paper`, hours of one NVIDIA H100 at 50 % MFU (not measured):\n")
    print(table(("items", "hours"), passes))


if __name__ == "__main__":
    main()

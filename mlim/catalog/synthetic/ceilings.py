"""How well the best possible matcher can do on the embedded catalog, with both modalities and with one.

`python -m mlim.catalog.synthetic.ceilings --out docs/embedded-catalog.md` writes the figures into the document.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from mlim.catalog.synthetic.wording import Texts, read_size
from mlim.errors import InputError
from mlim.files import atomic_file

DEMO_ITEMS, DEMO_SEED = 2400, 0
BEGIN, END = "<!-- ceilings: written by the command above, do not edit -->", "<!-- end of ceilings -->"

Row = Mapping[str, str]
Cell = tuple[str | None, ...]


class Ceilings(NamedTuple):
    """Pairs inside families, the share of them that match, and the best possible PR-AUC per modality."""

    pairs: int
    prevalence: float
    text: float
    image: float
    both: float


class _Pair(NamedTuple):
    readings: Cell  # the sizes that the two texts tell, in alphabetical order
    same_pattern: bool
    same_size: bool


def read_catalog(table: Path) -> list[dict[str, str]]:
    """The rows of a catalog.csv; `InputError` when it cannot be read."""
    try:
        with table.open(encoding="utf-8", newline="") as source:
            return list(csv.DictReader(source))
    except OSError as error:
        raise InputError(
            f"{table}: cannot be read ({error.strerror}); name an embedded catalog's catalog.csv"
        ) from None


def measure_ceilings(rows: Iterable[Row]) -> Ceilings:
    """PR-AUC of readers that make no mistake, over all pairs inside families.

    The reader of pictures sees the true pattern of both items. The reader of texts knows every word for a size, and
    how often two sizes agree given what the two texts say, but cannot mend a size that is missing or wrong. Pattern
    and size vary independently, so the reader of both multiplies the two probabilities.
    """
    pairs = list(_pairs(rows))
    labels = np.array([pair.same_pattern and pair.same_size for pair in pairs])
    image = np.array([pair.same_pattern for pair in pairs], dtype=np.float64)
    text = _same_size_given_texts(pairs)
    scores = {"text": text, "image": image, "both": text * image}
    best = {name: float(average_precision_score(labels, score)) for name, score in scores.items()}
    return Ceilings(pairs=len(pairs), prevalence=float(labels.mean()), **best)


def _pairs(rows: Iterable[Row]) -> Iterable[_Pair]:
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    for members in families.values():
        for first, second in combinations(members, 2):
            readings = sorted((_reading(first), _reading(second)), key=str)
            yield _Pair(tuple(readings), first["pattern"] == second["pattern"], first["size"] == second["size"])


def _reading(row: Row) -> str | None:
    return read_size([row[column] for column in Texts._fields])


def _same_size_given_texts(pairs: Sequence[_Pair]) -> NDArray[np.float64]:
    """For every pair, the share of equal sizes among all pairs whose texts tell the same two sizes."""
    outcomes: dict[Cell, list[bool]] = defaultdict(list)
    for pair in pairs:
        outcomes[pair.readings].append(pair.same_size)
    return np.array([np.mean(outcomes[pair.readings]) for pair in pairs])


def ceilings_table(ceilings: Ceilings) -> str:
    """The ceilings as Markdown."""
    lines = (
        f"{DEMO_ITEMS} items, seed {DEMO_SEED}: {ceilings.pairs} pairs inside families.",
        "",
        "| what the best possible matcher may use | PR-AUC |",
        "|---|---|",
        f"| nothing (share of matching pairs) | {ceilings.prevalence:.3f} |",
        f"| texts only | {ceilings.text:.3f} |",
        f"| pictures only | {ceilings.image:.3f} |",
        f"| both | {ceilings.both:.3f} |",
    )
    return "\n".join(lines)


def demo_ceilings() -> Ceilings:
    """The ceilings of the catalog that the demo makes; no picture is drawn for them."""
    from mlim.catalog.synthetic.generate import plan_items  # which measures the ceilings of what it draws

    return measure_ceilings(item.row for item in plan_items(DEMO_ITEMS, DEMO_SEED))


def with_block(document: str, block: str) -> str:
    """The document with the text between its two marks replaced; `InputError` when a mark is missing."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the document lacks the line `{END if begin else BEGIN}`; put it where the figures belong")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def main() -> None:
    """Rewrite the ceilings in a document."""
    parser = argparse.ArgumentParser(description="Write the embedded catalog's ceilings into a document.")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file with the two marks")
    try:
        out: Path = parser.parse_args().out
        text = with_block(out.read_text(encoding="utf-8"), ceilings_table(demo_ceilings()))
        with atomic_file(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except (InputError, OSError) as error:
        parser.exit(InputError.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()

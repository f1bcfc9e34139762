"""How well the best possible matcher can do on the embedded catalog, with both modalities and with one."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from mlim.embedded.wording import Texts, read_pattern, read_size
from mlim.errors import InputError

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
    sizes: Cell  # that the two texts tell, in alphabetical order
    patterns: Cell  # likewise
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

    The reader of pictures sees the true pattern of both items. The reader of texts knows every word for a size or a
    pattern, and how often two sizes or patterns agree given what the two texts say, but cannot mend a size that is
    missing or wrong. Pattern and size vary independently, so readers of both multiply the two probabilities.
    """
    pairs = list(_pairs(rows))
    labels = np.array([pair.same_pattern and pair.same_size for pair in pairs])
    image = np.array([pair.same_pattern for pair in pairs], dtype=np.float64)
    size = _share_given([pair.sizes for pair in pairs], [pair.same_size for pair in pairs])
    pattern = _share_given([pair.patterns for pair in pairs], [pair.same_pattern for pair in pairs])
    scores = {"text": size * pattern, "image": image, "both": size * image}
    best = {name: float(average_precision_score(labels, score)) for name, score in scores.items()}
    return Ceilings(pairs=len(pairs), prevalence=float(labels.mean()), **best)


def _pairs(rows: Iterable[Row]) -> Iterable[_Pair]:
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    for members in families.values():
        for first, second in combinations(members, 2):
            readings = [_readings(row) for row in (first, second)]
            sizes, patterns = (tuple(sorted(values, key=str)) for values in zip(*readings, strict=True))
            yield _Pair(sizes, patterns, first["pattern"] == second["pattern"], first["size"] == second["size"])


def _readings(row: Row) -> tuple[str | None, str | None]:
    """The size and the pattern that an item's texts tell."""
    texts = [row[column] for column in Texts._fields]
    return read_size(texts), read_pattern(texts)


def _share_given(cells: Sequence[Cell], same: Sequence[bool]) -> NDArray[np.float64]:
    """For every pair, the share of equal values among all pairs whose texts tell the same two."""
    outcomes: dict[Cell, list[bool]] = defaultdict(list)
    for cell, equal in zip(cells, same, strict=True):
        outcomes[cell].append(equal)
    shares = {cell: float(np.mean(equal)) for cell, equal in outcomes.items()}
    return np.array([shares[cell] for cell in cells])

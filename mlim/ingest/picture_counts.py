"""Rows that list several pictures: how many there are, and what becomes of the pictures after the first."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlim.catalog.description import ImageColumn
from mlim.catalog.quarantine import describe_reasons


@dataclass
class PictureCounts:
    """Rows whose cell lists several pictures, and pictures that `most` of `columns.image` leaves out."""

    rows_with_several: int = 0
    beyond_most: int = 0

    def add(self, listed: int, image: ImageColumn) -> None:
        """Count a row whose cell lists so many pictures."""
        self.rows_with_several += listed > 1
        self.beyond_most += max(0, listed - image.most) if image.choose == "all" else 0

    def summary(self, unusable: Mapping[str, int]) -> dict[str, Any]:
        """The counts, with those of the pictures that could not be used and cost no item, by reason."""
        return {**asdict(self), "unusable": dict(unusable)}


def describe_pictures(counts: Mapping[str, Any], image: ImageColumn) -> Iterator[str]:
    """A line for a person on each thing that was counted (`PictureCounts.summary`)."""
    if counts["rows_with_several"]:
        taken = "the first is taken" if image.choose == "first" else "pre-training sees one of them in each epoch"
        yield f"{counts['rows_with_several']} rows list several pictures; {taken} (columns.image.choose)"
    if counts["beyond_most"]:
        yield f"{counts['beyond_most']} pictures are left out: a row lists more than columns.image.most {image.most}"
    if counts["unusable"]:
        total, reasons = sum(counts["unusable"].values()), describe_reasons(counts["unusable"])
        yield f"{total} pictures of rows that list several cannot be used: {reasons}"

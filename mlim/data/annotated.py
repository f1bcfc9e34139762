"""The annotations of a work folder, as trainings read them: regions, captions and questions by item.

Every process of a loader reads the tables: objects are arrays of numbers, and texts stay in Arrow, where a table whose
rows of an item follow each other is not even copied from the file that all processes map.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlim.annotations.tables import CAPTIONS, QUESTIONS, REGIONS, VOCABULARIES_FILE, has_rows, read_table, table_file
from mlim.data.objects import ObjectNames, Posed, Region
from mlim.errors import DataError
from mlim.files import read_json
from mlim.losses import UNKNOWN

CORNERS = ("x0", "y0", "x1", "y1")


class _Regions(NamedTuple):
    """Rows of all items, each item's one after the other, and where these are."""

    places: dict[str, slice]
    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]
    scores: NDArray[np.float32]


class AnnotationTables:
    """The tables in `folder`, read when they are first asked for; a copy for another process is its path alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[type["AnnotationTables"], tuple[Path]]:
        return AnnotationTables, (self._folder,)

    @property
    def object_files(self) -> list[Path]:
        """What objects and their names are read from."""
        return [table_file(self._folder, REGIONS), self._folder / VOCABULARIES_FILE]

    @property
    def caption_files(self) -> list[Path]:
        """What captions are read from."""
        return [table_file(self._folder, CAPTIONS)]

    @property
    def has_captions(self) -> bool:
        """Whether any picture has captions."""
        return has_rows(self._folder, CAPTIONS)

    @cached_property
    def names(self) -> ObjectNames:
        """What objects are called; no names where nothing was annotated."""
        path = self._folder / VOCABULARIES_FILE
        if not path.is_file():
            return ObjectNames()
        values = read_json(path)
        return ObjectNames.model_validate({name: values[name] for name in ObjectNames.model_fields})

    def regions(self, item: str, /) -> list[Region]:
        """The objects in an item's picture; none where it is not annotated."""
        found = self._regions
        rows = found.places.get(item, slice(0, 0))
        columns = (column[rows].tolist() for column in found[1:])
        return [
            Region(tuple(corners), label, tuple(values), score)
            for corners, label, values, score in zip(*columns, strict=True)
        ]

    def captions(self, item: str, /) -> Sequence[str]:
        """Texts about an item's picture; none where it is not annotated."""
        return [caption for (caption,) in self._captions.rows(item, "caption")]

    def questions(self, item: str, /) -> Sequence[Posed]:
        """Questions about an item's picture; none where it is not annotated."""
        rows = self._questions.rows(item, "question", "answers")
        return [Posed(text, {given["answer"]: given["score"] for given in answers}) for text, answers in rows]

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The answers of the train split, the most frequent first; none where there are no questions."""
        path = self._folder / VOCABULARIES_FILE
        return tuple(read_json(path).get("answers", ())) if path.is_file() else ()

    @property
    def question_files(self) -> list[Path]:
        """What questions and answers are read from."""
        return [table_file(self._folder, QUESTIONS), self._folder / VOCABULARIES_FILE]

    @cached_property
    def _questions(self) -> "_ByItem":
        return _ByItem.of(read_table(self._folder, QUESTIONS))

    @cached_property
    def _captions(self) -> "_ByItem":
        return _ByItem.of(read_table(self._folder, CAPTIONS))

    @cached_property
    def _regions(self) -> _Regions:
        """All but crowds, which are boxes of no single object."""
        table = read_table(self._folder, REGIONS)
        places, table = _ByItem.of(table.filter(pc.invert(table["crowd"])))
        corners = np.stack([table[name].to_numpy().astype(np.float32) for name in CORNERS], axis=1)
        labels = pc.index_in(table["label"], pa.array(self.names.labels, pa.string()))
        for unknown in table["label"].filter(pc.is_null(labels)).slice(length=1).to_pylist():
            raise DataError(
                f"{table_file(self._folder, REGIONS)}: label `{unknown}` is not in {VOCABULARIES_FILE} beside it; run "
                "`mlim annotate` again"
            )
        attributes = _attributes(table["attributes"].combine_chunks(), self.names)
        return _Regions(places, corners, labels.to_numpy().astype(np.int64), attributes, table["score"].to_numpy())


def _attributes(told: Any, names: ObjectNames) -> NDArray[np.int64]:
    """The number (n, kinds) of the first known value of each kind, `UNKNOWN` without one, from maps of words."""
    offsets, values = told.offsets.to_numpy(), told.items
    rows = np.repeat(np.arange(len(told)), np.diff(offsets))
    found = np.full((len(told), len(names.attributes)), UNKNOWN)
    for place, (kind, known) in enumerate(names.attributes.items()):
        numbers = pc.index_in(values, pa.array(known, pa.string())).fill_null(UNKNOWN).to_numpy()
        ours = pc.equal(told.keys, kind).to_numpy(zero_copy_only=False) & (numbers != UNKNOWN)
        those = offsets[0] + np.flatnonzero(ours[offsets[0] : offsets[-1]])[::-1]  # the first one is written last
        found[rows[those - offsets[0]], place] = numbers[those]
    return found


class _ByItem(NamedTuple):
    """Rows of a table, each item's one after the other in their order, and where these are."""

    places: dict[str, slice]
    table: Any

    @classmethod
    def of(cls, table: Any) -> Self:
        """The rows of `table` by their `id`."""
        if not len(table):
            return cls({}, table)
        ids = table["id"].combine_chunks().dictionary_encode()
        numbers = ids.indices.to_numpy()
        order, ends = np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers)).tolist()
        apart = bool((order[1:] < order[:-1]).any())
        places = {
            item: slice(*each) for item, each in zip(ids.dictionary.to_pylist(), pairwise([0, *ends]), strict=True)
        }
        return cls(places, table.take(pa.array(order)) if apart else table)

    def rows(self, item: str, *columns: str) -> Iterator[tuple[Any, ...]]:
        """These columns of an item's rows; none where the table does not have it."""
        place = self.places.get(item, slice(0, 0))
        part = self.table.select(columns).slice(place.start, place.stop - place.start)
        return zip(*(column.to_pylist() for column in part.columns), strict=True)

"""The annotations of a work folder, as trainings read them: regions and captions by item."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlim.annotations.tables import CAPTIONS, QUESTIONS, REGIONS, VOCABULARIES_FILE, has_rows, read_table, table_file
from mlim.data.objects import ObjectNames, Posed, Region
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
        return self._captions.get(item, ())

    def questions(self, item: str, /) -> Sequence[Posed]:
        """Questions about an item's picture; none where it is not annotated."""
        return self._questions.get(item, ())

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
    def _questions(self) -> dict[str, list[Posed]]:
        table = _by_item(self._folder, QUESTIONS)
        answers = [{given["answer"]: given["score"] for given in row} for row in table["answers"].to_pylist()]
        posed = [Posed(*each) for each in zip(table["question"].to_pylist(), answers, strict=True)]
        return {item: posed[rows] for item, rows in _places(table["id"].to_pylist()).items()}

    @cached_property
    def _regions(self) -> _Regions:
        """All but crowds, which are boxes of no single object."""
        table = _by_item(self._folder, REGIONS)
        table, names = table.filter(pc.invert(table["crowd"])), self.names
        corners = np.stack([table[name].to_numpy().astype(np.float32) for name in CORNERS], axis=1)
        numbers = {label: number for number, label in enumerate(names.labels)}
        labels = [numbers[label] for label in table["label"].to_pylist()]
        kinds = [{value: number for number, value in enumerate(values)} for values in names.attributes.values()]
        attributes = [
            [known.get(given.get(kind, ""), UNKNOWN) for kind, known in zip(names.attributes, kinds, strict=True)]
            for given in map(dict, table["attributes"].to_pylist())
        ]
        places, shape = _places(table["id"].to_pylist()), (len(labels), len(kinds))
        values = np.array(attributes, np.int64).reshape(shape)
        return _Regions(places, corners, np.array(labels, np.int64), values, table["score"].to_numpy())

    @cached_property
    def _captions(self) -> dict[str, list[str]]:
        table = _by_item(self._folder, CAPTIONS)
        texts = table["caption"].to_pylist()
        return {item: texts[rows] for item, rows in _places(table["id"].to_pylist()).items()}


def _by_item(folder: Path, name: str) -> Any:
    """A table in the order of its ids; rows of one item stay in theirs."""
    table = read_table(folder, name)
    order = np.argsort(table["id"].to_numpy(zero_copy_only=False).astype(str), kind="stable")
    return table.take(pa.array(order))


def _places(ids: Sequence[str]) -> dict[str, slice]:
    places: dict[str, slice] = {}
    for row, item in enumerate(ids):
        places[item] = slice(places[item].start if item in places else row, row + 1)
    return places

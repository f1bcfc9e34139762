"""The annotations of a work folder, as trainings read them: tables of regions and captions, by item.

Vocabularies are those of the train split: an object that has no label there is none that could be found.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlim.data.objects import ObjectNames, Region
from mlim.errors import InputError
from mlim.files import read_json
from mlim.losses import UNKNOWN

REGIONS, CAPTIONS, VOCABULARIES = "regions.arrow", "captions.arrow", "vocabularies.json"
CORNERS = ("x0", "y0", "x1", "y1")


class _Regions(NamedTuple):
    """Rows of all items, each item's one after the other, and where these are."""

    places: dict[str, slice]
    corners: NDArray[np.float32]
    labels: NDArray[np.int64]
    attributes: NDArray[np.int64]


class AnnotationTables:
    """The tables in `folder`, read when they are first asked for; a copy for another process is its path alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[type["AnnotationTables"], tuple[Path]]:
        return AnnotationTables, (self._folder,)

    @property
    def files(self) -> list[Path]:
        """What is read and there."""
        return [path for name in (REGIONS, CAPTIONS, VOCABULARIES) if (path := self._folder / name).is_file()]

    @property
    def has_captions(self) -> bool:
        """Whether any picture has captions."""
        return bool(self._captions)

    @cached_property
    def names(self) -> ObjectNames:
        """What objects are called; no names where there are no vocabularies."""
        path = self._folder / VOCABULARIES
        if not path.is_file():
            return ObjectNames()
        values = read_json(path)
        attributes = {kind: [*map(_name, told)] for kind, told in values["attributes"].items()}
        return ObjectNames.model_validate({"labels": [*map(_name, values["labels"])], "attributes": attributes})

    def regions(self, item: str, /) -> list[Region]:
        """The objects in an item's picture; none where it is not annotated."""
        found = self._regions
        rows = found.places.get(item, slice(0, 0))
        columns = (found.corners[rows].tolist(), found.labels[rows].tolist(), found.attributes[rows].tolist())
        return [Region(tuple(corners), label, tuple(values)) for corners, label, values in zip(*columns, strict=True)]

    def captions(self, item: str, /) -> Sequence[str]:
        """Texts about an item's picture; none where it is not annotated."""
        return self._captions.get(item, ())

    @cached_property
    def _regions(self) -> _Regions:
        names = self.names
        table = _by_item(self._folder / REGIONS)
        table = table.filter(pc.and_(pc.is_in(table["label"], pa.array(names.labels, pa.string())), _single(table)))
        ids = table["id"].to_pylist()
        corners = np.stack([table[name].to_numpy().astype(np.float32) for name in CORNERS], axis=1)
        numbers = {label: number for number, label in enumerate(names.labels)}
        kinds = [{value: number for number, value in enumerate(values)} for values in names.attributes.values()]
        given = [{told["kind"]: told["value"] for told in each} for each in table["attributes"].to_pylist()]
        attributes = [
            [known.get(each.get(kind, ""), UNKNOWN) for kind, known in zip(names.attributes, kinds, strict=True)]
            for each in given
        ]
        labels = [numbers[label] for label in table["label"].to_pylist()]
        shape = (len(ids), len(kinds))
        return _Regions(
            _places(ids), corners, np.array(labels, np.int64), np.array(attributes, np.int64).reshape(shape)
        )

    @cached_property
    def _captions(self) -> dict[str, list[str]]:
        if not (self._folder / CAPTIONS).is_file():
            return {}
        table = _by_item(self._folder / CAPTIONS)
        texts = table["caption"].to_pylist()
        return {item: texts[rows] for item, rows in _places(table["id"].to_pylist()).items()}


def _name(entry: Mapping[str, Any]) -> str:
    """A word of a vocabulary, which says beside it how often it occurs."""
    return str(entry["name"])


def _single(table: pa.Table) -> pa.ChunkedArray:
    """Where a box is of one object; crowds are left out."""
    return pc.invert(table["crowd"])


def _by_item(path: Path) -> pa.Table:
    """A table in the order of its ids. `InputError` when it is missing."""
    if not path.is_file():
        raise InputError(f"{path} is missing; run `mlim annotate` first")
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all().sort_by("id")


def _places(ids: Sequence[str]) -> dict[str, slice]:
    places: dict[str, slice] = {}
    for row, item in enumerate(ids):
        places[item] = slice(places[item].start if item in places else row, row + 1)
    return places

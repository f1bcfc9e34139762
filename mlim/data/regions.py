"""Regions of pictures that `mlim regions` has stored: their files, and how a batch holds them in the place of pixels.

Files of one source, memory-mapped, with the regions of all items one after the other, in the order of the index:
features.npy (R, F) float16, boxes.npy (R, 4) float32 corners in 0..1, labels.npy (R,) int64 and attributes.npy (R, K)
int64 (numbers in `RegionFacts.names`, `UNKNOWN` where nothing is known), scores.npy (R,) and attribute_scores.npy
(R, K) float32, offsets.npy (items + 1,) int64. A picture's regions with the highest scores come first.
"""

import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlim.config import Config, parse
from mlim.data.batches import RegionLabels
from mlim.data.images import PIXEL_AXES
from mlim.data.objects import ObjectNames
from mlim.errors import InputError
from mlim.files import read_json, sha256_of
from mlim.losses import UNKNOWN
from mlim.shards.items import ItemStore

CORNERS: Final = 4
BESIDE_FEATURES: Final = CORNERS + 1  # numbers of a packed region: its corners, and that it is there
WHOLE: Final = (0.0, 0.0, 1.0, 1.0)
OFFSETS, SUMMARY_FILE = "offsets", "summary.json"
COLUMNS: Final = ("features", "boxes", "labels", "scores", "attributes", "attribute_scores")


class RegionFacts(Config):
    """What summary.json says of stored regions."""

    items: str  # fingerprint of the index that they belong to
    settings: Mapping[str, Any]
    made_from: Mapping[str, str]
    names: ObjectNames
    feature_size: int
    pictures: int
    regions: int
    pictures_without: int
    quarantined: Mapping[str, int]
    unknown_pictures: int
    files: Mapping[str, str]  # SHA-256 by name


class RegionBatch(NamedTuple):
    """Features (B, N, F), corners (B, N, 4) in 0..1, and which regions a picture has: (B, N) bool."""

    features: Tensor
    boxes: Tensor
    present: Tensor


def is_packed(pictures: Tensor) -> bool:
    """Whether a batch shows packed regions (B, N, F + 5) in the place of pixels (B, 3, S, S)."""
    return pictures.dim() != PIXEL_AXES


def unpack(packed: Tensor) -> RegionBatch:
    """The regions of a batch."""
    return RegionBatch(packed[..., :-BESIDE_FEATURES], packed[..., -BESIDE_FEATURES:-1], packed[..., -1] > 0)


class StoredRegions:
    """The regions of one source; a copy for another process is its paths, and nothing is read twice."""

    def __init__(self, folder: Path, store: ItemStore, most: int) -> None:
        """Prefer `open_regions`, which checks what is in `folder`; `most` regions are read of a picture."""
        self._folder, self._store, self._most = folder, store, most

    def __reduce__(self) -> tuple[type["StoredRegions"], tuple[Path, ItemStore, int]]:
        return StoredRegions, (self._folder, self._store, self._most)

    @cached_property
    def facts(self) -> RegionFacts:
        """What is stored."""
        path = self._folder / SUMMARY_FILE
        return parse(RegionFacts, read_json(path), str(path))

    @property
    def hashes(self) -> Mapping[str, str]:
        """The content of what is read: of the summary, which has the other files' in it."""
        path = self._folder / SUMMARY_FILE
        return {f"{self._folder.parent.name}/{self._folder.name}/{SUMMARY_FILE}": sha256_of(path)}

    def text(self, item: str, /) -> str:
        """The text of an item."""
        return self._store.text(item)

    def image(self, item: str, picture: int = 0, /) -> NDArray[np.float32]:
        """The regions of an item's first picture, packed (most, F + 5): each its feature, its corners, a 1; then zeros.

        A picture without regions has one of which nothing is known: the whole picture with a feature of zeros.
        """
        rows = self._rows(item)
        packed = np.zeros((self._most, self.facts.feature_size + BESIDE_FEATURES), np.float32)
        shown = slice(0, rows.stop - rows.start)
        packed[shown, :-BESIDE_FEATURES] = self._columns["features"][rows]
        packed[shown, -BESIDE_FEATURES:-1] = self._columns["boxes"][rows]
        packed[shown, -1] = 1
        if rows.start == rows.stop:
            packed[0, -BESIDE_FEATURES:] = (*WHOLE, 1)
        return packed

    def labels(self, items: Sequence[str]) -> RegionLabels:
        """What is to be seen in the regions of a batch."""
        kinds = len(self.facts.names.attributes)
        shape = (len(items), self._most)
        labels, attributes = torch.full(shape, UNKNOWN), torch.full((*shape, kinds), UNKNOWN)
        found = RegionLabels(labels, torch.zeros(shape), attributes, torch.zeros(*shape, kinds))
        for number, rows in enumerate(map(self._rows, items)):
            for part, name in zip(found, ("labels", "scores", "attributes", "attribute_scores"), strict=True):
                part[number, : rows.stop - rows.start] = torch.from_numpy(np.array(self._columns[name][rows]))
        return found

    def _rows(self, item: str) -> slice:
        row = self._store.row(item)
        start, stop = (int(self._columns[OFFSETS][place]) for place in (row, row + 1))
        return slice(start, min(stop, start + self._most))

    @cached_property
    def _columns(self) -> Mapping[str, NDArray[Any]]:
        return {name: np.load(self._folder / f"{name}.npy", mmap_mode="r") for name in (*COLUMNS, OFFSETS)}


def open_regions(folder: Path, store: ItemStore, most: int, settings: Mapping[str, Any]) -> StoredRegions:
    """The regions in `folder`, at most `most` of a picture.

    `InputError` when they were not made, or made of other items or with other `settings`.
    """
    command = f"run `mlim regions {shlex.quote(str(settings['source']))}`"
    if not (folder / SUMMARY_FILE).is_file():
        raise InputError(f"{folder} is missing; {command} first")
    stored = StoredRegions(folder, store, most)
    if stored.facts.items != store.fingerprint:
        raise InputError(f"{folder}: was made of other items; {command} again")
    if dict(stored.facts.settings) != dict(settings):
        raise InputError(f"{folder}: was made with other settings than those of the recipe; {command} again")
    return stored

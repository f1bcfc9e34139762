"""Where stored regions come from: boxes and squares that a frozen image side looks at, a detector, LXMERT's files."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlim.annotations.lxmert import PictureRegions, find_pictures, name_of, read_names, read_picture
from mlim.annotations.pictures import Pictures
from mlim.annotations.records import Place
from mlim.catalog.annotation_rules import LxmertFiles
from mlim.catalog.quarantine import Quarantined
from mlim.data.annotated import AnnotationTables
from mlim.data.images import as_floats, to_pixels
from mlim.data.objects import NO_OBJECTS, ObjectNames
from mlim.data.regions import CORNERS
from mlim.errors import InputError
from mlim.files import sha256_of, sha256_of_bytes
from mlim.losses import UNKNOWN
from mlim.models.boxes import to_corners
from mlim.models.detection import Detected, Detects
from mlim.models.images.build import build_image_side
from mlim.models.images.regions import grid_boxes, pooled
from mlim.models.images.side import PictureSide
from mlim.models.storage import WEIGHTS_FILE
from mlim.models.system import Shown
from mlim.models.systems import load_system
from mlim.recipe.image_sides import GRID, ImageSide, RegionSide
from mlim.shards.items import ItemStore

EDGE: Final = 0.01  # of a picture's side: a box that leaves it by less is cut off there
ATTRIBUTE: Final = "attribute"  # the only kind of those in LXMERT's files
WIDTH: Final = 1  # of the projection of an image side, which is not used


class Regions(NamedTuple):
    """The regions of one picture, as `mlim/data/regions.py` stores them, in any order."""

    features: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    attributes: NDArray[np.int64]
    attribute_scores: NDArray[np.float32]

    def best_first(self) -> "Regions":
        """The same by falling score; of equal scores the larger region comes first."""
        sizes = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(axis=1)
        return self.at(np.lexsort((-sizes, -self.scores)))

    def at(self, rows: NDArray[Any]) -> "Regions":
        """Those at these rows, or where `rows` is true."""
        parts: tuple[NDArray[Any], ...] = tuple(part[rows] for part in self)
        return Regions(*parts)


class RegionSource(ABC):
    """Finds the regions of pictures, one chunk of items after the other."""

    unknown_pictures = 0  # of its files, which the catalog does not have
    changed_ns: tuple[int, ...] = ()  # when its files were changed: chunks of files that were since are not continued

    @property
    @abstractmethod
    def made_from(self) -> Mapping[str, str]:
        """What decides what it finds beside the pictures and the settings: a digest by name."""

    @abstractmethod
    def names(self, labels: int, attributes: int) -> ObjectNames:
        """What its labels and attributes are called, of which these are the numbers that were found, at most."""

    @abstractmethod
    def find(self, items: Sequence[str]) -> tuple[list[Regions], list[Quarantined]]:
        """The regions of each item, and what is left out of them."""


class SampledRegions(RegionSource):
    """Boxes of annotations, or the squares of a grid, with the mean of what a frozen image side makes of each."""

    def __init__(self, side: RegionSide, store: ItemStore, tables: AnnotationTables, device: torch.device) -> None:
        self._store, self._device = store, device
        self._tables = None if side.source == GRID else tables
        self._squares = grid_boxes(side.side)
        self._image, self._digest = frozen_side(side.features)
        self._image.to(device)

    @property
    def made_from(self) -> Mapping[str, str]:
        """The weights of the image side, and the annotations."""
        files = [] if self._tables is None else self._tables.object_files
        return {"features": self._digest, **{path.name: sha256_of(path) for path in files}}

    def names(self, labels: int, attributes: int) -> ObjectNames:
        """Those of the annotations; squares have none."""
        return NO_OBJECTS if self._tables is None else self._tables.names

    @torch.no_grad()
    def find(self, items: Sequence[str]) -> tuple[list[Regions], list[Quarantined]]:
        """Regions of each item."""
        pixels = to_pixels((self._store.image(item) for item in items), len(items)).to(self._device)
        grids = self._image.grid(as_floats(pixels)).float().cpu()
        return [self._of(item, grid[None]) for item, grid in zip(items, grids, strict=True)], []

    def _of(self, item: str, grid: Tensor) -> Regions:
        if self._tables is None:
            return _square_regions(pooled(grid, self._squares)[0], self._squares)
        known, kinds = self._tables.regions(item), len(self._tables.names.attributes)
        boxes = torch.tensor([region.corners for region in known]).view(-1, CORNERS)
        scores = np.array([region.score for region in known], np.float32)
        attributes = np.array([region.attributes for region in known], np.int64).reshape(-1, kinds)
        return Regions(
            pooled(grid, boxes)[0].numpy(),
            boxes.numpy(),
            np.array([region.label for region in known], np.int64),
            scores,
            attributes,
            np.repeat(scores[:, None], kinds, axis=1),
        )


def _square_regions(features: Tensor, boxes: Tensor) -> Regions:
    count = len(boxes)
    nothing = np.zeros((count, 0))
    labels, scores = np.full(count, UNKNOWN, np.int64), np.zeros(count, np.float32)
    return Regions(
        features.numpy(), boxes.numpy(), labels, scores, nothing.astype(np.int64), nothing.astype(np.float32)
    )


def frozen_side(config: ImageSide) -> tuple[PictureSide, str]:
    """An image side with the weights that it starts from, and the digest of these."""
    side = build_image_side(config, WIDTH)
    start = dict(side.start())
    side.load_state_dict(start, strict=False)
    digests = [sha256_of_bytes(value.contiguous().numpy().tobytes()) for _, value in sorted(start.items())]
    return side.eval(), sha256_of_bytes("".join(digests).encode())


class DetectedRegions(RegionSource):
    """What a pre-trained detector finds in a picture alone, with the outputs at its queries as features."""

    def __init__(self, side: RegionSide, store: ItemStore, model: Path, device: torch.device) -> None:
        self._store, self._device, self._least, self._model = store, device, side.least_score, model
        if not (model / WEIGHTS_FILE).is_file():
            raise InputError(f"{model} is missing; run `mlim pretrain {side.detector}` first")
        system = load_system(model).build().eval().to(device)
        if not isinstance(system, Detects):
            raise InputError(f"{model}: system {system.kind} finds no objects; name a pre-training of a detector")
        self._system: Detects = system

    @property
    def made_from(self) -> Mapping[str, str]:
        """The detector's weights."""
        return {"detector": sha256_of(self._model / WEIGHTS_FILE)}

    def names(self, labels: int, attributes: int) -> ObjectNames:
        """What the detector was trained to name."""
        return self._system.object_names

    @torch.no_grad()
    def find(self, items: Sequence[str]) -> tuple[list[Regions], list[Quarantined]]:
        """Regions of each item: those whose class is probable enough."""
        pixels = as_floats(to_pixels((self._store.image(item) for item in items), len(items)).to(self._device))
        nothing = torch.zeros((len(items), 1), dtype=torch.long, device=self._device)
        asked = self._system.ask(self._system.look(Shown(nothing, nothing.bool(), pixels)))[-1:]
        found = _probable(self._system.judge(asked))
        parts = (asked[0].float().cpu().numpy(), *found)
        pictures = [Regions(*(part[place] for part in parts)) for place in range(len(items))]
        return [each.at(_are_seen(each, self._least)) for each in pictures], []


def _probable(detected: Detected) -> tuple[NDArray[Any], ...]:
    """Boxes (B, Q, 4), labels and scores (B, Q), attributes and their scores (B, Q, K) of the last layer."""
    scores, labels = detected.classes[-1].float().softmax(-1)[..., :-1].max(-1)
    told = [logits[-1].float().softmax(-1).max(-1) for logits in detected.attributes]
    nothing = scores.new_zeros((*scores.shape, 0))
    attributes = torch.stack([each.indices for each in told], dim=-1) if told else nothing.long()
    sure = torch.stack([each.values for each in told], dim=-1) if told else nothing
    boxes = to_corners(detected.boxes[-1].float()).clamp(0, 1)
    return tuple(part.cpu().numpy() for part in (boxes, labels, scores, attributes, sure))


def _are_seen(regions: Regions, least: float) -> NDArray[np.bool_]:
    """Which are probable enough, and no line or point."""
    seen: NDArray[np.bool_] = (regions.scores >= least) & (regions.boxes[:, 2:] > regions.boxes[:, :2]).all(axis=1)
    return seen


class _Line(NamedTuple):
    """Where the regions of a picture are."""

    path: Path
    number: int
    start: int


class FileRegions(RegionSource):
    """Regions that files of LXMERT's layout hold: read once for where each picture is, then line by line."""

    def __init__(self, paths: Sequence[Path], files: LxmertFiles, store: ItemStore) -> None:
        self._paths, self._files = paths, files
        self.changed_ns = tuple(path.stat().st_mtime_ns for path in paths if path.is_file())
        self._labels, self._attributes = (
            None if path is None else read_names(path) for path in (files.labels, files.attributes)
        )
        self._lines: dict[str, _Line] = {}
        self._repeated: dict[str, list[Quarantined]] = {}
        pictures = Pictures(dict.fromkeys(store.ids, ""), {})
        for path in paths:
            for names, number, start in find_pictures(path):
                self._note(pictures.find(names, Place(str(path), number)), names.first, _Line(path, number, start))
        first = min(self._lines.values(), default=None)
        self._size = None if first is None else read_picture(*first).features.shape[1]

    def _note(self, item: str | None, name: str, line: _Line) -> None:
        if item is None:
            self.unknown_pictures += 1
        elif item in self._lines:
            detail = f"the picture was in line {self._lines[item].number} already; take one of the two out"
            place = Place(str(line.path), line.number)
            self._repeated.setdefault(item, []).append(_left_out(place, name, "repeated-picture", detail))
        else:
            self._lines[item] = line

    @property
    def made_from(self) -> Mapping[str, str]:
        """The files' names and sizes, which may be many gigabytes, and the lists of names."""
        sizes = {path.name: str(path.stat().st_size) for path in self._paths}
        lists = [path for path in (self._files.labels, self._files.attributes) if path is not None]
        return {**sizes, **{path.name: sha256_of(path) for path in lists}}

    def names(self, labels: int, attributes: int) -> ObjectNames:
        """Those of the lists, else numbers."""
        named = [self._labels or _numbers(labels), self._attributes or _numbers(attributes)]
        return ObjectNames(labels=tuple(named[0]), attributes={ATTRIBUTE: tuple(named[1])})

    def find(self, items: Sequence[str]) -> tuple[list[Regions], list[Quarantined]]:
        """Regions of each item; what is not finite, or outside the picture, is left out."""
        found, rejected = list[Regions](), list[Quarantined]()
        for item in items:
            rejected += self._repeated.get(item, [])
            line = self._lines.get(item)
            regions, left = self._none if line is None else self._read(read_picture(*line))
            found.append(regions)
            rejected += left
        return found, rejected

    @property
    def _none(self) -> tuple[Regions, list[Quarantined]]:
        empty, size = np.zeros((0, 1), np.float32), self._size or 0
        boxes, labels = np.zeros((0, CORNERS), np.float32), np.zeros(0, np.int64)
        return Regions(np.zeros((0, size), np.float32), boxes, labels, empty[:, 0], labels[:, None], empty), []

    def _read(self, picture: PictureRegions) -> tuple[Regions, list[Quarantined]]:
        place, size = picture.place, picture.features.shape[1]
        if size != self._size:
            raise InputError(
                f"{place.file}: line {place.row}: features of {size} numbers, those before {self._size}; give files "
                "of one detector"
            )
        for names, numbers in ((self._labels, picture.labels), (self._attributes, picture.attributes)):
            for number in numbers.tolist():
                name_of(names, number, place)
        with np.errstate(over="ignore"):
            finite = np.isfinite(picture.features.astype(np.float16)).all() and np.isfinite(picture.boxes).all()
        if not finite:
            detail = "a feature or a corner is not a finite number; extract the regions of this picture again"
            return self._none[0], [_left_out(place, picture.picture.first, "not-finite", detail)]
        return _inside(picture)


def _inside(picture: PictureRegions) -> tuple[Regions, list[Quarantined]]:
    """The regions of a picture whose boxes lie in it; the others are counted once for the picture."""
    cut = picture.boxes.clip(0, 1)
    inside: Any = (abs(cut - picture.boxes) <= EDGE).all(axis=1) & (cut[:, 2:] > cut[:, :2]).all(axis=1)
    known = (picture.features, cut, picture.labels, picture.label_scores)
    regions = Regions(*known, picture.attributes[:, None], picture.attribute_scores[:, None]).at(inside)
    if inside.all():
        return regions, []
    detail = f"{(~inside).sum()} boxes are empty or outside the picture; correct them"
    return regions, [_left_out(picture.place, picture.picture.first, "box-outside", detail)]


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def _left_out(place: Place, picture: str, reason: str, detail: str) -> Quarantined:
    return Quarantined(place.file, place.row, picture, "regions", reason, detail)

"""Objects as a set: learned queries read a picture, and each becomes one box, or none (Carion et al. 2020, DETR)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.data.objects import ObjectNames
from mlim.errors import InputError
from mlim.models.boxes import CORNERS
from mlim.models.initialise import drawn
from mlim.models.system import Fuses, Shown, System
from mlim.models.weights import NamedTensors, Planned, on_meta

BOX_LAYERS = 3  # of the head that predicts boxes
WAVES = 10_000  # ratio of the longest wave of a sine position to the shortest one
FULL_TURN: Final = 2 * math.pi
EPS = 1e-6


class Detected(NamedTuple):
    """Predictions of every layer of a decoder for every query, the last layer last.

    `classes` (L, B, Q, K + 1): logits, the last one is that there is no object; `boxes` (L, B, Q, 4): centres and
    sizes, in 0..1; `attributes`: logits (L, B, Q, values) for each kind.
    """

    classes: Tensor
    boxes: Tensor
    attributes: list[Tensor]


@runtime_checkable
class Detects(Fuses, Protocol):
    """A system that finds objects."""

    @property
    def object_names(self) -> ObjectNames:
        """What it calls the objects that it finds."""

    def finding(self, objects: ObjectNames) -> System:
        """A network like it, without its weights, for objects of these names."""

    @property
    def queries_and_layers(self) -> tuple[int, int]:
        """How many objects are looked for in a picture, and how many predictions of each are judged."""

    @property
    def detection_modules(self) -> list[nn.Module]:
        """Decoder and heads; the heads come last."""

    def look(self, shown: Shown) -> Tensor:
        """The outputs at the cells (B, C, H) of pictures that are read without a text."""

    def detect(self, cells: Tensor, text: Tensor | None = None, attention: Tensor | None = None) -> Detected:
        """The objects, from outputs at the cells (B, C, H), and at the text's tokens (B, T, H) where that is read, too.

        `attention` (B, T) bool is False at padding of the text.
        """

    def ask(self, cells: Tensor, text: Tensor | None = None, attention: Tensor | None = None) -> Tensor:
        """What the queries have become in every layer of the decoder: (L, B, Q, H), from what `detect` reads."""

    def judge(self, asked: Tensor) -> Detected:
        """The objects, from what the queries have become (L, B, Q, H)."""

    def detection_operations(self, text: float, alone: bool) -> float:
        """Operations of finding the objects of a picture beside so many tokens; `alone`: with those of `look`."""


class DetectionHeads(nn.Module):
    """What a query has become, as class, box and attributes."""

    def __init__(self, width: int, classes: int, attributes: Sequence[int] = ()) -> None:
        """`classes` of objects; `attributes`: the values that each kind has."""
        super().__init__()
        self.classes = nn.Linear(width, classes + 1)
        widths = [width] * BOX_LAYERS + [CORNERS]
        self.boxes = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise(widths))
        self.attributes = nn.ModuleList(nn.Linear(width, values) for values in attributes)

    def forward(self, hidden: Tensor) -> Detected:
        """Predictions from the decoder's outputs (L, B, Q, H)."""
        boxes = hidden
        for number, layer in enumerate(self.boxes):
            boxes = layer(boxes if number == 0 else functional.relu(boxes))
        attributes = [cast(Tensor, layer(hidden)) for layer in self.attributes]
        return Detected(self.classes(hidden), boxes.sigmoid(), attributes)


def sine_positions(grid: int, width: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions (grid * grid, width) of cells, row by row: sines of the height, then of the width.

    `width` is a multiple of 4. Nearby cells are alike, and a box can be read off them.
    """
    places = torch.arange(1, grid + 1, device=device) / (grid + EPS) * FULL_TURN
    waves = WAVES ** (2 * torch.arange(width // 4, device=device) / (width // 2))
    turns = places[:, None] / waves
    along = torch.stack([turns.sin(), turns.cos()], dim=2).flatten(1)  # (grid, width / 2)
    rows, columns = along[:, None].expand(-1, grid, -1), along[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def plan_detector(start: Planned[System], objects: ObjectNames, seed: int) -> Planned[System]:
    """The system with heads for these objects: its own where it knows their names, else new ones, random from `seed`.

    `InputError` for a system that finds no objects.
    """
    system = start.model
    if not isinstance(system, Detects):
        raise InputError(f"system {system.kind} finds no objects; choose another one for this task")
    if system.object_names == objects:
        return start
    model = on_meta(lambda: system.finding(objects))
    head = cast(DetectionHeads, cast(Detects, model).detection_modules[-1])
    name = next(name for name, module in model.named_modules() if module is head)

    def weights() -> NamedTensors:
        own = drawn(head, head.classes.in_features, torch.Generator().manual_seed(seed))
        yield from ((f"{name}.{key}", value) for key, value in own)
        yield from ((key, value) for key, value in start.weights() if not key.startswith(f"{name}."))

    return Planned(model, weights)

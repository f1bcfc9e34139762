"""A ResNet (He et al. 2016) up to its last grid, as in `transformers.ResNetModel`, whose weights it can start from."""

import re
from functools import partial
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.errors import InputError
from mlim.models.config import RGB
from mlim.models.fetch import find_folder
from mlim.models.images.norms import FrozenBatchNorm, NormMaker, group_norm
from mlim.models.images.side import GridReader
from mlim.models.storage import WEIGHTS_FILE, stored_shapes, stored_tensors
from mlim.models.weights import NamedTensors, named_shapes
from mlim.recipe.image_sides import RANDOM_START, CnnSide

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
NARROWING = 4  # of the middle of a bottleneck
STEM_KERNEL = 7
COUNTER = "num_batches_tracked"  # of training, which a frozen norm does not read
THEIR_NAMES: Final = (  # parts of names in transformers' files, and ours
    (r"^(resnet\.)?embedder\.embedder\.", "network.stem."),
    (r"^(resnet\.)?encoder\.stages\.(\d+)\.layers\.", r"network.stages.\2."),
    (r"\.layer\.", ".layers."),
    (r"\.normalization\.running_mean$", ".norm.mean"),
    (r"\.normalization\.running_var$", ".norm.variance"),
    (r"\.normalization\.", ".norm."),
    (r"\.convolution\.", ".conv."),
)


class Convolution(nn.Module):
    """A convolution without bias, a norm and, if `active`, ReLU."""

    def __init__(
        self, entering: int, leaving: int, kernel: int, stride: int, norm: NormMaker, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, kernel, stride, padding=kernel // 2, bias=False)
        self.norm, self.active = norm(leaving), active

    def forward(self, grid: Tensor) -> Tensor:
        """A grid (B, channels, g, g) to another one."""
        grid = self.norm(self.conv(grid))
        return functional.relu(grid) if self.active else grid


class ResidualBlock(nn.Module):
    """Two convolutions, or three with a narrow middle, beside a shortcut."""

    def __init__(self, entering: int, leaving: int, stride: int, bottleneck: bool, norm: NormMaker) -> None:
        super().__init__()
        inner = leaving // NARROWING if bottleneck else leaving
        kernels, strides = ((1, 3, 1), (1, stride, 1)) if bottleneck else ((3, 3), (stride, 1))
        channels = pairwise((entering, *[inner] * (len(kernels) - 1), leaving))
        layers = [
            Convolution(*ends, kernel, step, norm, active=at + 1 < len(kernels))
            for at, (ends, kernel, step) in enumerate(zip(channels, kernels, strides, strict=True))
        ]
        self.layers = nn.Sequential(*layers)
        same = stride == 1 and entering == leaving
        self.shortcut = nn.Identity() if same else Convolution(entering, leaving, 1, stride, norm, active=False)

    def forward(self, grid: Tensor) -> Tensor:
        """A grid (B, channels, g, g) to another one."""
        return functional.relu(self.layers(grid) + self.shortcut(grid))


class ResNet(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] -> the grid (B, widths[-1], g, g) of the last stage."""

    def __init__(self, config: CnnSide) -> None:
        super().__init__()
        norm: NormMaker = group_norm if config.start == RANDOM_START else FrozenBatchNorm
        block = partial(ResidualBlock, bottleneck=config.block == "bottleneck", norm=norm)
        self.stem = Convolution(RGB, config.stem, STEM_KERNEL, 2, norm)
        self.stages = nn.ModuleList(
            nn.Sequential(
                block(entering, leaving, 2 if number else 1), *(block(leaving, leaving, 1) for _ in range(depth - 1))
            )
            for number, (depth, (entering, leaving)) in enumerate(
                zip(config.depths, pairwise((config.stem, *config.widths)), strict=True)
            )
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """The last grid."""
        channels = zip(pixels.unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True)
        grid = torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1)
        grid = functional.max_pool2d(self.stem(grid), kernel_size=3, stride=2, padding=1)
        for stage in self.stages:
            grid = stage(grid)
        return grid


class CnnReader(GridReader):
    """A ResNet as an image side."""

    def __init__(self, config: CnnSide, width: int) -> None:
        self.network: ResNet
        super().__init__(ResNet(config), config.widths[-1], width, config.read_size)
        self._start = config.start

    def start(self) -> NamedTensors:
        """The weights of a ResNet of transformers, which may have further stages; `InputError` for another shape."""
        if self._start == RANDOM_START:
            return iter(())
        path = find_folder(self._start, "image.start", "a local folder or `random`") / WEIGHTS_FILE
        theirs = {our_name(name): (name, shape) for name, shape in stored_shapes(path).items()}
        wanted = {name: shape for name, shape in named_shapes(self).items() if name.startswith("network.")}
        stages = tuple(f"network.stages.{number}." for number in range(len(self.network.stages)))
        known = [name for name in theirs if name.startswith(stages) and not name.endswith(COUNTER)]
        differing = sorted(name for name in {*wanted, *known} if theirs.get(name, ("", None))[1] != wanted.get(name))
        if differing:
            raise InputError(
                f"{path}: holds another ResNet than image.block, stem, depths and widths describe; it differs in "
                f"{len(differing)} tensors, the first is {differing[0]}"
            )
        names = {theirs[name][0]: name for name in wanted}
        return ((names[name], value) for name, value in stored_tensors(path, names))


def our_name(name: str) -> str:
    """What a tensor of transformers' ResNet is called here."""
    for theirs, ours in THEIR_NAMES:
        name = re.sub(theirs, ours, name)
    return name

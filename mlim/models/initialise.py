"""Random weights from a seed, without touching the global random state."""

import math

import torch
from torch import nn

from mlim.models.image_embedder import ImageEmbedder
from mlim.models.images.norms import FrozenBatchNorm
from mlim.models.images.side import PictureSide
from mlim.models.weights import NamedTensors, fill

BERT_STD = 0.02  # at BERT-base's width
BERT_WIDTH = 768
RELU_GAIN = 2.0  # He et al. 2015: keeps the variance through layers with a rectifying activation


def drawn(module: nn.Module, hidden_size: int, generator: torch.Generator) -> NamedTensors:
    """Initialise the weights of `module`, in a fixed order: BERT's rule for the transformer, He's for convolutions.

    BERT's standard deviation grows as the width shrinks, so that attention scores start as large as in BERT-base: with
    0.02 at a width of 128 all tokens attend to all others alike for hundreds of steps.
    The last layer of an image side is scaled down, so that a picture's vectors start with the size of word vectors and
    do not drown their position vectors under the common LayerNorm (docs/paper-decisions.md has the figures).

    Only shapes are looked at: `module` may be on the meta device or sharded.
    """
    std = BERT_STD * math.sqrt(BERT_WIDTH / hidden_size)
    projections = [part.projection for part in module.modules() if isinstance(part, ImageEmbedder | PictureSide)]
    for prefix, part in module.named_modules():
        factor = std if any(part is each for each in projections) else 1.0
        for name, value in _draw(part, std, generator):
            yield f"{prefix}.{name}" if prefix else name, value.mul_(factor)


def initialise(module: nn.Module, hidden_size: int, generator: torch.Generator) -> None:
    """Give every weight inside `module` its random value."""
    fill(module, drawn(module, hidden_size, generator))


def _draw(part: nn.Module, std: float, generator: torch.Generator) -> NamedTensors:
    if isinstance(part, nn.Linear | nn.Embedding):
        yield "weight", torch.empty(part.weight.shape).normal_(std=std, generator=generator)
    elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
        he = math.sqrt(RELU_GAIN / _inputs_per_output(part))
        yield "weight", torch.empty(part.weight.shape).normal_(std=he, generator=generator)
    elif isinstance(part, FrozenBatchNorm):
        yield from part.neutral()
    elif isinstance(part, nn.LayerNorm | nn.GroupNorm):
        yield "weight", torch.ones(part.weight.shape)
    bias = getattr(part, "bias", None)
    if isinstance(bias, nn.Parameter):
        yield "bias", torch.zeros(bias.shape)


def _inputs_per_output(layer: nn.Conv2d | nn.ConvTranspose2d) -> int:
    taps = math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d):  # each output pixel is reached by kernel / stride inputs per side
        taps //= math.prod(layer.stride)
    return layer.in_channels * taps

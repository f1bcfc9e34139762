"""Random weights from a seed, without touching the global random state."""

import math

import torch
from torch import nn

from mlim.models.image_embedder import ImageEmbedder

BERT_STD = 0.02  # at BERT-base's width
BERT_WIDTH = 768
RELU_GAIN = 2.0  # He et al. 2015: keeps the variance through layers with a rectifying activation


@torch.no_grad()
def initialise(module: nn.Module, hidden_size: int, generator: torch.Generator) -> None:
    """Draw every weight inside `module` anew: BERT's rule for the transformer, He's for (de)convolutions.

    BERT's standard deviation grows as the width shrinks, so that attention scores start as large as in BERT-base: with
    0.02 at a width of 128 all tokens attend to all others alike for hundreds of steps.
    The embedder's last layer is scaled down, so that a picture's cells start with the size of word vectors and do not
    drown their position vectors under the common LayerNorm (docs/paper-decisions.md has the figures).
    """
    std = BERT_STD * math.sqrt(BERT_WIDTH / hidden_size)
    for part in module.modules():
        _draw(part, std, generator)
    for part in module.modules():
        if isinstance(part, ImageEmbedder):
            part.projection.weight.mul_(std)


def _draw(part: nn.Module, std: float, generator: torch.Generator) -> None:
    if isinstance(part, nn.Linear | nn.Embedding):
        nn.init.normal_(part.weight, std=std, generator=generator)
    elif isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(part.weight, std=math.sqrt(RELU_GAIN / _inputs_per_output(part)), generator=generator)
    elif isinstance(part, nn.LayerNorm):
        nn.init.ones_(part.weight)
    bias = getattr(part, "bias", None)
    if isinstance(bias, nn.Parameter):
        nn.init.zeros_(bias)


def _inputs_per_output(layer: nn.Conv2d | nn.ConvTranspose2d) -> int:
    taps = math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d):  # each output pixel is reached by kernel / stride inputs per side
        taps //= math.prod(layer.stride)
    return layer.in_channels * taps

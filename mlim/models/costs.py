"""What a step costs at least, counted: operations and bytes of every part of a network.

A multiply-add is two operations. Only products of matrices and convolutions count, as usual for MFU: not what
lies between them (norms, activations, dropout, softmax, residuals, losses), nor the heads of ITM and of matching, which
read one vector per item. Bytes are those that layers read and write when everything between two of them is fused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mlim.models.config import RGB, MlimConfig
from mlim.models.images.build import picture_operations
from mlim.models.transformer import EncoderShape, WordShape

CostedPart = Literal["embedder", "transformer", "mlm_head", "decoder"]
PARTS: tuple[CostedPart, ...] = ("embedder", "transformer", "mlm_head", "decoder")
MULTIPLY_ADD = 2
TRAINING = 3  # backward costs twice the forward pass: one product for the inputs' gradients, one for the weights'
BLEND_KERNEL = 3  # of the decoder's layers with stride 1


class Layer(NamedTuple):
    """One layer on one sample: operations forward, its weights, and the numbers that it reads and writes."""

    operations: float
    weights: int
    elements: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What a sample holds, or an average one: `text` tokens with [CLS] and [SEP], `masked` ones of them, `patches`."""

    text: float
    masked: float
    patches: int

    @property
    def tokens(self) -> float:
        """Vectors that the transformer sees."""
        return self.text + self.patches


@dataclass(frozen=True, slots=True)
class Cost:
    """What one part costs per sample, forward only: operations and numbers moved; and its weights."""

    operations: float
    weights: int
    elements: float


def part_costs(config: MlimConfig, sample: Sample) -> dict[CostedPart, Cost]:
    """The cost of every part of the pre-training model for a sample."""
    layers: dict[CostedPart, list[Layer]] = {
        "embedder": embedder_layers(config),
        "transformer": transformer_layers(config, sample.tokens),
        "mlm_head": mlm_layers(config, sample.masked),
        "decoder": decoder_layers(config),
    }
    return {part: Cost(*map(sum, zip(*layers[part], strict=True))) for part in PARTS}


def training_operations(config: MlimConfig, sample: Sample) -> float:
    """Operations of one sample in training, forward and backward.

    Slightly too many: no gradients are computed for the pixels and, so, for the inputs of the embedder's first layer.
    """
    return TRAINING * sum(cost.operations for cost in part_costs(config, sample).values())


def transformer_layers(config: EncoderShape, tokens: float, blocks: int | None = None) -> list[Layer]:
    """BERT's blocks over one sequence of `tokens` vectors; padding is not computed. `blocks` of them; None: all."""
    width, inner = config.hidden_size, config.intermediate_size
    attention = Layer(2 * MULTIPLY_ADD * tokens**2 * width, 0, 4 * tokens * width)  # scores never reach the memory
    attending = [linear(tokens, width, 3 * width), attention, linear(tokens, width, width), norm(width)]
    return [*attending, linear(tokens, width, inner), linear(tokens, inner, width), norm(width)] * (
        config.layers if blocks is None else blocks
    )


def crossing_layers(
    config: EncoderShape, tokens: float, before: float = 0.0, memory: float | None = None
) -> list[Layer]:
    """Blocks over `tokens` vectors that also see `before` ones before them, and a `memory` by cross-attention."""
    width, inner = config.hidden_size, config.intermediate_size
    seen = linear(tokens + before, width, 2 * width)
    layers = [linear(tokens, width, width), seen, _attention(tokens, tokens + before, width)]
    layers += [linear(tokens, width, width), norm(width)]
    if memory is not None:
        layers += [linear(tokens, width, width), linear(memory, width, 2 * width), _attention(tokens, memory, width)]
        layers += [linear(tokens, width, width), norm(width)]
    return [*layers, linear(tokens, width, inner), linear(tokens, inner, width), norm(width)] * config.layers


def _attention(queries: float, keys: float, width: int) -> Layer:
    return Layer(2 * MULTIPLY_ADD * queries * keys * width, 0, 2 * (queries + keys) * width)


def mlm_layers(config: WordShape, masked: float) -> list[Layer]:
    """The head over the vocabulary at `masked` positions; its second matrix is the word embedding's."""
    width = config.hidden_size
    return [linear(masked, width, width), norm(width), linear(masked, width, config.vocabulary_size)]


def embedder_layers(config: MlimConfig) -> list[Layer]:
    """The convolutions over one picture, each a matrix product over its patches; a frozen network as one layer."""
    channels, side, layers = (RGB, *config.embedder.channels, config.hidden_size), config.image_size, []
    for entering, leaving, stride in zip(channels[:-1], channels[1:], config.embedder_strides, strict=True):
        side //= stride
        kernel = stride + 2 * config.embedder.overlap * (stride > 1)
        layers.append(linear(side**2, entering * kernel**2, leaving))
    if (features := config.features) is not None:
        layers.append(Layer(picture_operations(features, config.hidden_size, config.image_size), 0, 0))
    return layers


def decoder_layers(config: MlimConfig) -> list[Layer]:
    """The deconvolutions to one picture; those of stride 1 have a kernel of 3, the others kernel = stride."""
    channels, side, layers = (config.hidden_size, *config.decoder.channels, RGB), config.grid, []
    for entering, leaving, stride in zip(channels[:-1], channels[1:], config.decoder_strides, strict=True):
        weights = entering * leaving * (BLEND_KERNEL if stride == 1 else stride) ** 2
        moved = side**2 * (entering + leaving * stride**2)
        layers.append(Layer(MULTIPLY_ADD * side**2 * weights, weights + leaving, moved))
        side *= stride
    return layers


def linear(rows: float, entering: int, leaving: int) -> Layer:
    """`rows` vectors times a matrix, with a bias."""
    weights = entering * leaving
    return Layer(MULTIPLY_ADD * rows * weights, weights + leaving, rows * (entering + leaving))


def norm(width: int) -> Layer:
    """A LayerNorm: weights, and no operation that counts."""
    return Layer(0, 2 * width, 0)


def operations_of(layers: Sequence[Layer]) -> float:
    """Operations of a forward pass through `layers`."""
    return sum(layer.operations for layer in layers)

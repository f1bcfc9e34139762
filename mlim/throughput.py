"""What a step costs at least, counted: operations and bytes of every part, and what share of a device's peak is used.

A multiply-add is two operations. Only products of matrices and convolutions count, as wherever MFU is told: not what
lies between them (norms, activations, dropout, softmax, residuals, losses), nor the heads of ITM and of matching, which
read one vector per item. Bytes are those that layers read and write when everything between two of them is fused.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from mlim.models.config import MlimConfig

Part = Literal["embedder", "transformer", "mlm_head", "decoder"]
Precision = Literal["bf16", "fp16", "tf32", "fp32"]
PARTS: tuple[Part, ...] = ("embedder", "transformer", "mlm_head", "decoder")
MULTIPLY_ADD = 2
TRAINING = 3  # backward costs twice the forward pass: one product for the inputs' gradients, one for the weights'
BLEND_KERNEL = 3  # of the decoder's layers with stride 1
RGB = 3
TERA, GIGA = 1e12, 1e9

# TFLOP/s in half precision, TF32 and fp32, GB/s: dense, without sparsity, from the manufacturer's data sheets
_KNOWN = {
    r"NVIDIA H200": (989.5, 494.7, 67.0, 4800),
    r"NVIDIA H200 NVL": (835.5, 417.7, 60.0, 4800),
    r"NVIDIA GH200 480GB": (989.5, 494.7, 67.0, 4000),
    r"NVIDIA H100 80GB HBM3|NVIDIA H100 SXM5.*": (989.5, 494.7, 67.0, 3350),
    r"NVIDIA H100 PCIe": (756.0, 378.0, 51.0, 2000),
    r"NVIDIA H100 NVL": (835.5, 417.7, 60.0, 3900),
    r"(NVIDIA )?A100-(SXM4|PCIE)-40GB": (312.0, 156.0, 19.5, 1555),
    r"NVIDIA A100-SXM4-80GB": (312.0, 156.0, 19.5, 2039),
    r"NVIDIA A100 80GB PCIe": (312.0, 156.0, 19.5, 1935),
    r"NVIDIA A40": (149.7, 74.8, 37.4, 696),
    r"NVIDIA A30": (165.0, 82.0, 10.3, 933),
    r"NVIDIA L40S": (362.0, 183.0, 91.6, 864),
    r"NVIDIA L40": (181.0, 90.5, 90.5, 864),
    r"NVIDIA L4": (121.0, 60.0, 30.3, 300),
    r"(Tesla )?V100-SXM2-(16|32)GB": (125.0, 0.0, 15.7, 900),
    r"(Tesla )?V100-PCIE-(16|32)GB": (112.0, 0.0, 14.0, 900),
    r"(Tesla |NVIDIA )?T4": (65.0, 0.0, 8.1, 320),
}
_WITHOUT_BF16 = {pattern for pattern in _KNOWN if "V100" in pattern or "T4" in pattern}


class Layer(NamedTuple):
    """One layer at work on one sample: operations forward, its weights, and the numbers that it reads and writes."""

    operations: float
    weights: int
    elements: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What one sample holds, or an average one: `text` tokens with [CLS] and [SEP], `masked` ones of them, `cells`."""

    text: float
    masked: float
    cells: int

    @property
    def tokens(self) -> float:
        """Vectors that the transformer sees."""
        return self.text + self.cells


@dataclass(frozen=True, slots=True)
class Cost:
    """What one part costs per sample, forward only: operations and numbers moved; and its weights."""

    operations: float
    weights: int
    elements: float


def part_costs(config: MlimConfig, sample: Sample) -> dict[Part, Cost]:
    """The cost of every part of the pre-training model for a sample."""
    layers: dict[Part, list[Layer]] = {
        "embedder": embedder_layers(config),
        "transformer": transformer_layers(config, sample.tokens),
        "mlm_head": mlm_layers(config, sample.masked),
        "decoder": decoder_layers(config),
    }
    return {part: Cost(*map(sum, zip(*layers[part], strict=True))) for part in PARTS}


def training_operations(config: MlimConfig, sample: Sample) -> float:
    """Operations of one sample in training, forward and backward.

    Slightly too many: nobody computes gradients for the pixels and, so, for the inputs of the embedder's first layer.
    """
    return TRAINING * sum(cost.operations for cost in part_costs(config, sample).values())


def transformer_layers(config: MlimConfig, tokens: float) -> list[Layer]:
    """BERT's blocks over one sequence of `tokens` vectors; padding is not computed."""
    width, inner = config.hidden_size, config.intermediate_size
    attention = Layer(2 * MULTIPLY_ADD * tokens**2 * width, 0, 4 * tokens * width)  # scores never reach the memory
    attending = [linear(tokens, width, 3 * width), attention, linear(tokens, width, width), norm(width)]
    return [*attending, linear(tokens, width, inner), linear(tokens, inner, width), norm(width)] * config.layers


def mlm_layers(config: MlimConfig, masked: float) -> list[Layer]:
    """The head over the vocabulary at `masked` positions; its second matrix is the word embedding's."""
    width = config.hidden_size
    return [linear(masked, width, width), norm(width), linear(masked, width, config.vocabulary_size)]


def embedder_layers(config: MlimConfig) -> list[Layer]:
    """The convolutions over one picture, each a matrix product over its patches."""
    channels, side, layers = (RGB, *config.embedder.channels, config.hidden_size), config.image_size, []
    for entering, leaving, stride in zip(channels[:-1], channels[1:], config.embedder_strides, strict=True):
        side //= stride
        kernel = stride + 2 * config.embedder.overlap * (stride > 1)
        layers.append(linear(side**2, entering * kernel**2, leaving))
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


class Peak(NamedTuple):
    """What a device does at best: dense operations per second by precision (0: not there), bytes per second."""

    bf16: float
    fp16: float
    tf32: float
    fp32: float
    bandwidth: float


def peak_of(device_name: str) -> Peak | None:
    """The peak of a device by the name that its driver tells; None for one that is not in the table.

    Names must agree in full: a slice of a card (MIG), a laptop's or a trimmed edition is another device. Figures are
    the manufacturer's for dense matrices; halves where only those for sparse ones are published.
    """
    for pattern, (half, tf32, fp32, bandwidth) in _KNOWN.items():
        if re.fullmatch(pattern, device_name):
            bf16 = 0.0 if pattern in _WITHOUT_BF16 else half
            return Peak(bf16 * TERA, half * TERA, tf32 * TERA, fp32 * TERA, bandwidth * GIGA)
    return None


def mfu(
    operations_per_sample: float, samples_per_second: float, device_name: str, precision: Precision, devices: int = 1
) -> float | None:
    """Model FLOPs utilisation: the share of the peak that counted operations reach; None where no peak is known.

    `samples_per_second` are those of all `devices` together.
    """
    peak = peak_of(device_name)
    best = getattr(peak, precision) if peak else 0.0
    return operations_per_sample * samples_per_second / (best * devices) if best else None


def device_name(device: torch.device) -> str:
    """What the driver calls `device`; for a CPU, whose peak nobody knows, its type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

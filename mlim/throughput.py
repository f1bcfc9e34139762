"""What share of a device's peak the counted operations (mlim/models/costs.py) of a training use."""

import re
from typing import Literal, NamedTuple

import torch

Precision = Literal["bf16", "fp16", "tf32", "fp32"]
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
    """What the driver calls `device`; for a CPU, whose peak is unknown, its type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

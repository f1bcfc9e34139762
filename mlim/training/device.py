"""Which device a training runs on, and in which precision it multiplies."""

import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mlim.errors import InputError
from mlim.recipe.training import ComputeConfig
from mlim.throughput import Precision, device_name
from mlim.training.ranks import Ranks

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: DeviceName, ranks: Ranks | None = None) -> torch.device:
    """The device that a recipe names, the rank's own among several; `auto` prefers CUDA, then MPS.

    `InputError` for one that is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(kind for kind, there in present.items() if there) if name == "auto" else name
    if not present[kind]:
        there = ", ".join(other for other, found in present.items() if found)
        raise InputError(f"device: `{kind}` is not available here (there is: {there}); set device=auto or device=cpu")
    if kind != "cuda" or ranks is None:
        return torch.device(kind)
    if ranks.local >= torch.cuda.device_count():
        raise InputError(
            f"compute.processes: {ranks.local + 1} processes are too many for {torch.cuda.device_count()} CUDA devices"
        )
    torch.cuda.set_device(ranks.local)
    return torch.device("cuda", ranks.local)


@dataclass(frozen=True)
class DeviceContext:
    """Where a training runs: this process's device, its ranks, and how the numbers are computed."""

    device: torch.device
    ranks: Ranks
    compute: ComputeConfig

    @property
    def shards(self) -> bool:
        """Whether weights, gradients and moments are spread over the ranks."""
        return self.compute.shard and self.ranks.size > 1

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in bf16 where the recipe wants it; the losses are fp32 all the same (mlim/losses.py)."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def precision(self) -> Precision:
        """Of matrix products on this device."""
        cuda = self.device.type == "cuda"
        wanted = self.compute.precision
        if wanted == "bf16" or (wanted == "auto" and cuda and torch.cuda.is_bf16_supported()):
            return "bf16"
        return "tf32" if cuda else "fp32"


def hardware_of(context: DeviceContext) -> str:
    """The hardware of a training: `2 x NVIDIA H100`, `cpu (AMD EPYC), threads: 4`."""
    name = device_name(context.device)
    one = f"{name} ({_processor()}), threads: {torch.get_num_threads()}" if context.device.type == "cpu" else name
    return one if context.ranks.size == 1 else f"{context.ranks.size} x {one}"


def _processor() -> str:
    """The name of the CPU as Linux reports it, elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def allow_fast_fp32() -> None:
    """Let CUDA devices use TF32 for the fp32 products that remain (10 bits of mantissa, fp32 sums)."""
    torch.set_float32_matmul_precision("high")

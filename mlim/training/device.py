"""Which device a training runs on, and Accelerate's view of it."""

from typing import Literal

import torch
from accelerate import Accelerator

from mlim.errors import InputError


def choose_device(name: Literal["auto", "cpu", "cuda", "mps"]) -> torch.device:
    """The device that a recipe names; `auto` prefers CUDA, then MPS. `InputError` for one that is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    if not present[name]:
        there = ", ".join(kind for kind, there in present.items() if there)
        raise InputError(f"device: `{name}` is not available here (there is: {there}); set device=auto or device=cpu")
    return torch.device(name)


def accelerator_on(device: torch.device) -> Accelerator:
    """An Accelerator that places models and batches on `device`."""
    return Accelerator(cpu=device.type == "cpu")

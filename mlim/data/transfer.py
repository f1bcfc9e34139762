"""Batches on their way to the device of a model."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def to_device(value: T, device: torch.device) -> T:
    """A copy of tuples, dictionaries and tensors with every tensor on `device`; other things as they are.

    CUDA copies from pinned memory, while the host goes on.
    """
    moved: Any = value
    if isinstance(value, torch.Tensor):
        cuda = device.type == "cuda" and value.device.type == "cpu"
        moved = (value.pin_memory() if cuda else value).to(device, non_blocking=cuda)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        moved = type(value)(*(to_device(part, device) for part in value))
    elif isinstance(value, Mapping):
        moved = {name: to_device(part, device) for name, part in value.items()}
    result: T = moved
    return result

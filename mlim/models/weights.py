"""The weights of a network, one tensor at a time: no whole network is held without need.

A network is described on torch's `meta` device, which takes no memory. Where it will live, and whether in one piece or
in shards over several processes, may be decided after that; then its weights come one after the other, drawn from a
seed or read from a file, and each process keeps what it needs of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)
M_co = TypeVar("M_co", bound=nn.Module, covariant=True)

NamedTensors = Iterator[tuple[str, Tensor]]
Weights = Callable[[], NamedTensors]

DRAWS = frozenset({nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_})


@dataclass(frozen=True)
class Planned(Generic[M_co]):
    """A network on the meta device, and where its weights come from."""

    model: M_co
    weights: Weights

    def build(self) -> M_co:
        """The network itself, whole, on the CPU."""
        self.model.to_empty(device="cpu")
        fill(self.model, self.weights())
        return self.model


def on_meta(build: Callable[[], M]) -> M:
    """What `build` makes, without memory and without drawing random numbers."""
    with torch.device("meta"), _NothingDrawn():
        return build()


class _NothingDrawn(TorchFunctionMode):
    """Skips the first weights of modules: on the meta device they are nothing, and torch imports its compiler for them.

    That takes more than a second of each process that loads a model.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        return given["tensor"] if func in DRAWS else func(*args, **given)


@torch.no_grad()
def fill(model: nn.Module, weights: NamedTensors) -> None:
    """Copy the weights into a model that has memory; a later one of the same name wins. `ValueError` when one lacks."""
    own = named_tensors(model)
    missing = set(own)
    for name, value in weights:
        copy_whole(own[name], value)
        missing.discard(name)
    if missing:
        raise ValueError(f"no weights for {', '.join(sorted(missing))}")


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, shared ones once; of a sharded model this rank's parts."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach() for name, value in named.items()}


def named_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of the same, by name."""
    return {name: tuple(value.shape) for name, value in named_tensors(model).items()}


def is_sharded(value: Tensor) -> bool:
    """Whether a tensor is spread over ranks: a DTensor (whose module takes half a second to import)."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """The tensor, gathered from all ranks where it is sharded; every rank must ask."""
    return cast(Tensor, value.full_tensor()) if is_sharded(value) else value  # type: ignore[attr-defined]


def own_part(value: Tensor) -> Tensor:
    """What this rank holds of a tensor that may be sharded; shares its memory."""
    return cast(Tensor, value.to_local()) if is_sharded(value) else value  # type: ignore[attr-defined]


def copy_whole(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded: every rank has the value and keeps its part of it."""
    if target.shape != value.shape:
        raise ValueError(f"a tensor of shape {tuple(value.shape)} cannot become one of {tuple(target.shape)}")
    if is_sharded(target):
        from torch.distributed.tensor import DTensor, distribute_tensor

        like = cast(DTensor, target)
        here = value.to(like.device)
        value = distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)
    own_part(target).copy_(own_part(value))

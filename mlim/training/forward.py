"""One forward pass of all that a step computes, on one process, with DDP, or with FSDP2."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlim.models.weights import Weights, fill
from mlim.tasks.protocols import Objective, ObjectiveOutput
from mlim.training.device import DeviceContext


class Forward:
    """Builds the objective's model on `context`, whole or this rank's shards of it, and calls `objective.losses` there.

    The model may be on the meta device: memory is taken once it is sharded, and filled with `weights` one at a time.
    """

    def __init__(self, objective: Objective[Any, Any], weights: Weights, context: DeviceContext) -> None:
        self._losses = _Losses(objective)
        for block in objective.model.blocks():
            block.recompute = context.compute.checkpoint_blocks
        if context.compute.compile:
            objective.model.compile_parts()
        self.shards = context.shards
        if self.shards:
            _shard(self._losses, context)
        self._losses.to_empty(device=context.device)
        fill(objective.model, weights())
        self._run: Callable[[Any], ObjectiveOutput] = self._losses
        if context.ranks.size > 1 and not self.shards:
            self._run = DistributedDataParallel(self._losses, find_unused_parameters=not objective.uses_everything)

    def __call__(self, prepared: Any) -> ObjectiveOutput:
        """The losses of a prepared batch on the model's device."""
        return self._run(prepared)

    @contextmanager
    def no_sync(self, wanted: bool) -> Iterator[None]:
        """Without exchanging gradients: they are, once per step, with the last micro-batch."""
        if self.shards:
            self._losses.set_requires_gradient_sync(not wanted)  # type: ignore[operator]
        ddp = isinstance(self._run, DistributedDataParallel)
        without: AbstractContextManager[Any] = self._run.no_sync() if wanted and ddp else nullcontext()  # type: ignore[attr-defined]
        with without:
            yield

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """The model may be used without this object: its weights are whole (validation)."""
        if self.shards:
            self._losses.unshard()  # type: ignore[operator]
        yield
        if self.shards:
            self._losses.reshard()  # type: ignore[operator]


class _Losses(nn.Module):
    """The losses as a module: what is computed in one forward pass is what DDP and FSDP2 look at."""

    def __init__(self, objective: Objective[Any, Any]) -> None:
        super().__init__()
        self.model, self._losses = objective.model, objective.losses

    def forward(self, prepared: Any) -> ObjectiveOutput:
        return self._losses(prepared)


def _shard(losses: _Losses, context: DeviceContext) -> None:
    """Each block of the transformer is gathered by itself while it computes; all the rest together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(context.device.type, (context.ranks.size,))
    for block in losses.model.blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(losses, mesh=mesh, reshard_after_forward=False)

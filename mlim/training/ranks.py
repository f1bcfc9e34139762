"""The processes that train one model together: which of them this one is, and what they exchange.

`torchrun` (or `accelerate launch`, which uses it) starts one process for each device and describes it in the
environment. The recipe's batch is the batch of all ranks together: their number changes the speed, not the experiment.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from mlim.errors import InputError
from mlim.processes import die_with_parent

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"  # how often torchrun has started all processes anew
PATIENCE = timedelta(minutes=30)  # one rank tokenises, validates or saves while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among `size` of them; `local` counts those of this machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which saves, logs and prints."""
        return self.rank == 0

    def per_rank(self, batch_size: int, together: int = 1) -> int:
        """How many examples of a batch are this rank's, groups of `together` whole; `InputError` where that fails."""
        if batch_size % self.size:
            raise InputError(
                f"batch_size {batch_size} cannot be divided evenly among {self.size} processes; change either"
            )
        if (batch_size // self.size) % together:
            raise InputError(
                f"batch_size {batch_size} among {self.size} processes parts {together} examples that a loss looks at "
                "together; change compute.processes or batch_size"
            )
        return batch_size // self.size

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The numbers added up over all ranks, on the CPU: no device waits for it."""
        if self.size == 1:
            return list(numbers)
        added = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(added)
        summed: list[float] = added.tolist()
        return summed

    def broadcast(self, number: int) -> int:
        """The number that rank 0 gives, on every rank."""
        return int(self.sum([number if self.is_main else 0])[0])

    def group(self) -> Any:
        """A process group of all ranks beside the one of the training, for another thread; every rank must ask."""
        return distributed.new_group(backend="gloo", timeout=PATIENCE)

    def any(self, flag: torch.Tensor) -> torch.Tensor:
        """A flag (scalar 0 or 1, on the device) that is 1 everywhere when it is 1 on one of the ranks."""
        if self.size > 1:
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return flag

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Rank 0 goes through the block before the others do: they find on the disk what it made."""
        if not self.is_main:
            distributed.barrier()
        yield
        if self.is_main and self.size > 1:
            distributed.barrier()


def broadcast_in_group(value: str | None, group: Any) -> str:
    """The value that the first rank of a process group gives, on every rank of it; the others give None."""
    values = [value]
    distributed.broadcast_object_list(values, src=distributed.get_global_rank(group, 0), group=group)
    return str(values[0])


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Meet the other processes of the launcher, for trainings on `device` (`cpu`, `cuda`); alone without a launcher."""
    if any(name not in os.environ for name in LAUNCHED):
        yield Ranks()
        return
    die_with_parent()  # torchrun, which may be killed
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    # Restarted processes would find the addresses of those that died in the launcher's store: every start has its own
    fresh = PrefixStore(f"start-{os.environ.get(RESTARTS, '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Ranks(rank, size, int(os.environ["LOCAL_RANK"]))
    finally:
        distributed.destroy_process_group()

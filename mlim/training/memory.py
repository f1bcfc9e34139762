"""When the device's memory does not suffice: what to change, and how large a batch may be."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mlim.errors import MlimError

CPU_ALLOCATOR = "can't allocate memory"  # how torch's allocator on the CPU says it, as a plain RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory ran out, on any device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_ALLOCATOR in str(error)


@contextmanager
def explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into an `MlimError` that says what saves how much."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MlimError(
            f"the memory of the device does not suffice for micro-batches of {batch_size}. The same losses, up to the "
            f"draws of dropout, with less: batch_size={max(1, batch_size // 2)} and accumulate twice as large halve "
            "what the activations take; compute.checkpoint_blocks=true keeps one vector per token and "
            "block instead of about twenty; compute.precision=bf16 halves the activations (CUDA). `--find-batch-size` "
            "measures the largest that fits"
        ) from error


@contextmanager
def limited_to_free_memory(device: torch.device) -> Iterator[None]:
    """On a Linux machine's CPU: asking for more memory than is free now is an error, not the end of the process."""
    statm = Path("/proc/self/statm")
    if device.type != "cpu" or not statm.is_file():
        yield
        return
    page = os.sysconf("SC_PAGE_SIZE")
    used = int(statm.read_text(encoding="ascii").split()[0]) * page
    before = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + os.sysconf("SC_AVPHYS_PAGES") * page
    allowed = wanted if before[1] == resource.RLIM_INFINITY else min(wanted, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def find_batch_size(step: Callable[[int], None], largest: int) -> int:
    """The largest power of two up to `largest` for which `step` (one full training step) fits into memory; 0 for none.

    Doubles from 1 until memory runs out.
    """
    fits, size = 0, 1
    while size <= largest:
        try:
            step(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        fits, size = size, 2 * size
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return fits

"""From one command to one process for each device: torchrun, when `compute` or the machine asks for several."""

import os
import sys
from collections.abc import Sequence

import torch

from mlim.processes import threads_of_each
from mlim.recipe.training import ComputeConfig
from mlim.training.device import DeviceName, choose_device
from mlim.training.ranks import LAUNCHED


def wanted_processes(compute: ComputeConfig, device: DeviceName, groups: int) -> int:
    """How many processes train together on this machine on batches of `groups` examples, or groups of examples."""
    if compute.processes != "auto":
        return compute.processes
    return largest_even(groups, torch.cuda.device_count()) if choose_device(device).type == "cuda" else 1


def largest_even(groups: int, devices: int) -> int:
    """The most processes, one for each device at most, among which a batch of `groups` can be divided evenly."""
    return max((count for count in range(1, devices + 1) if groups % count == 0), default=1)


def launch_if_wanted(compute: ComputeConfig, device: DeviceName, groups: int, arguments: Sequence[str]) -> None:
    """Become torchrun over `mlim ARGUMENTS` when several processes are wanted and no launcher has started this one.

    Signals sent to this process then reach torchrun, which passes them on.
    """
    count = wanted_processes(compute, device, groups)
    if count == 1 or all(name in os.environ for name in LAUNCHED):
        return
    # torchrun would give each process one thread, and say so
    for name, share in threads_of_each(count).items():
        os.environ.setdefault(name, share)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "mlim"]
    os.execv(sys.executable, [sys.executable, *launcher, *arguments])  # noqa: S606 - our own words

"""How many trainings run at the same time on this machine, where the recipe leaves it open.

Networks of every size that was measured get further side by side, with one thread each, than one after the other with
all threads (docs/performance.md): so there is one for each core, as far as the memory reaches.
"""

import sys
from pathlib import Path
from typing import Final

import psutil

from mlim.processes import cores
from mlim.recipe import Recipe

PER_ACCELERATOR: Final = 2  # while one computes, the other starts, validates or saves
DEVICES: Final = Path("/dev")
GPUS: Final = "nvidia[0-9]*"
CONTAINER_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")  # bytes, or the word max
MEMORY_SHARE: Final = 0.75  # of the memory; the rest is the system's, servers' and the page cache's
PROCESS_BYTES: Final = 600_000_000  # libraries, and the batches of a small network
BYTES_PER_WEIGHT: Final = 24  # weight, gradient, two moments of Adam, and what a step keeps beside them


def trainings_at_once(recipe: Recipe) -> int:
    """What `compute.side_by_side` says; `auto`: one for each core as far as memory reaches, two with an accelerator."""
    wanted = recipe.compute.side_by_side
    if wanted != "auto":
        return wanted
    return PER_ACCELERATOR if _has_accelerator(recipe) else as_many_as_fit(cores(), _memory(), bytes_of(recipe))


def as_many_as_fit(most: int, memory: int, each: int) -> int:
    """At least one, at most `most`, and no more than take their share of the `memory` at so many bytes."""
    return max(1, min(most, int(MEMORY_SHARE * memory) // each))


def bytes_of(recipe: Recipe) -> int:
    """About what one training takes: its process, and what belongs to each weight of its blocks and words."""
    model = recipe.model
    block = 4 * model.hidden_size**2 + 2 * model.hidden_size * model.intermediate_size
    weights = model.layers * block + recipe.text.vocabulary_size * model.hidden_size
    return PROCESS_BYTES + BYTES_PER_WEIGHT * weights


def _has_accelerator(recipe: Recipe) -> bool:
    """Whether the device is, or may be, no CPU; found without torch, which takes seconds to load."""
    if recipe.device != "auto":
        return recipe.device != "cpu"
    return sys.platform == "darwin" or any(DEVICES.glob(GPUS))


def _memory() -> int:
    """Bytes of this machine, or of the container around this process."""
    whole = int(psutil.virtual_memory().total)
    limit = CONTAINER_LIMIT.read_text(encoding="ascii").strip() if CONTAINER_LIMIT.is_file() else ""
    return min(whole, int(limit)) if limit.isdecimal() else whole

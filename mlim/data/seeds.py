"""Random numbers as pure functions of where they are used: nothing to save when a training is resumed."""

import zlib

import numpy as np
import torch

Key = int | str


def seed_of(*keys: Key) -> int:
    """A 63-bit seed for `keys`, such as ("masks", seed, step); other keys give independent streams."""
    numbers = [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(*keys: Key) -> torch.Generator:
    """A CPU generator of its own for `keys`."""
    return torch.Generator().manual_seed(seed_of(*keys))


def numpy_generator(*keys: Key) -> np.random.Generator:
    """A numpy generator of its own for `keys`."""
    return np.random.default_rng(seed_of(*keys))

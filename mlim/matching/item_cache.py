"""What is computed once for an item, kept on disk by the item's content: one row of numbers in memory-mapped blocks.

A block is written whole or not at all, so that what a killed run has finished is there for the next one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.files import atomic_file, sha256_of_bytes

DIGEST: Final = 16  # bytes of a SHA-256 that name an item's content
VALUES, DIGESTS = ".npy", ".digests"

Digests = NDArray[np.bytes_]


class Found(NamedTuple):
    """Where the values of some items (n,) lie: the number of the block among `blocks`, and the row in it.

    Both are -1 for items that are in no block.
    """

    blocks: Sequence[Path]
    block: NDArray[np.int32]
    row: NDArray[np.int32]

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Which items are in no block (n,)."""
        return np.asarray(self.block < 0)


@dataclass(frozen=True)
class ItemCache:
    """Blocks of values of one kind in a folder, which is named after all that decides the values besides the item."""

    folder: Path

    def find(self, digests: Digests) -> Found:
        """Where the values of items of these contents (n,) lie."""
        blocks = sorted(path.with_suffix(VALUES) for path in self.folder.glob(f"*{DIGESTS}"))
        known = [np.fromfile(path.with_suffix(DIGESTS), dtype=digests.dtype) for path in blocks]
        sizes = np.array([len(part) for part in known], dtype=np.int64)
        block = np.full(len(digests), -1, dtype=np.int32)
        row = block.copy()
        if not sizes.sum():
            return Found(blocks, block, row)
        every = np.concatenate(known)
        order = np.argsort(every, kind="stable")
        at = np.minimum(np.searchsorted(every[order], digests), len(order) - 1)
        there = order[at]
        same = every[there] == digests
        ends = np.cumsum(sizes)
        number = np.searchsorted(ends, there, side="right")
        block[same] = number[same]
        row[same] = (there - (ends - sizes)[number])[same]
        return Found(blocks, block, row)

    def has_block(self, digests: Digests) -> bool:
        """Whether items of these contents (n,) were written as one block."""
        return self._block(digests).with_suffix(DIGESTS).is_file()

    def add(self, digests: Digests, values: NDArray[Any]) -> None:
        """Write the values (n, width) of items of these contents (n,) as one block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._block(digests)
        with atomic_file(path) as temporary, temporary.open("wb") as target:
            np.save(target, values, allow_pickle=False)
        with atomic_file(path.with_suffix(DIGESTS)) as temporary:  # last: it says that the values are whole
            temporary.write_bytes(digests.tobytes())

    def _block(self, digests: Digests) -> Path:
        return self.folder / f"{sha256_of_bytes(digests.tobytes())}{VALUES}"


class CachedValues:
    """The values of some items (n, width), read from their blocks when they are asked for."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._open: dict[int, NDArray[Any]] = {}

    def take(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """The values (m, width) of the items at these places (m,) among those that were looked for; m is at least 1."""
        block, row = self._found.block[places], self._found.row[places]
        numbers = np.unique(block)
        first = self._block(int(numbers[0]))
        if len(numbers) == 1:
            return np.asarray(first[row])
        taken = np.empty((len(places), *first.shape[1:]), dtype=first.dtype)
        for number in numbers:
            chosen = np.flatnonzero(block == number)
            taken[chosen] = self._block(int(number))[row[chosen]]
        return taken

    def _block(self, number: int) -> NDArray[Any]:
        if number not in self._open:
            self._open[number] = np.load(self._found.blocks[number], mmap_mode="r", allow_pickle=False)
        return self._open[number]


def digest_of(text: str, jpeg: bytes) -> bytes:
    """What names an item by its content."""
    digest = hashlib.sha256(jpeg)
    digest.update(len(jpeg).to_bytes(8, "little") + text.encode())
    return digest.digest()[:DIGEST]


def as_digests(digests: Sequence[bytes]) -> Digests:
    """Digests as an array that can be sorted and compared."""
    return np.frombuffer(b"".join(digests), dtype=f"S{DIGEST}")

"""Which of its pictures an item shows in an epoch of pre-training."""

from collections.abc import Callable, Sequence

from mlim.data.collate import Look
from mlim.data.loader import EpochExamples
from mlim.data.seeds import seed_of


class Rotation(EpochExamples[Look]):
    """Items in a row, each with another one of its pictures in every epoch, until all were seen.

    Which one is a pure function of (seed, epoch, item): items begin at different places of their pictures.
    """

    def __init__(self, items: Sequence[str], pictures: Callable[[str], Sequence[int]], seed: int) -> None:
        """`pictures` gives the numbers of an item's pictures that may be seen, at least one."""
        self._items, self._pictures, self._seed = items, pictures, seed

    def __len__(self) -> int:
        return len(self._items)

    def at(self, place: int, epoch: int) -> Look:
        """The item at a place with the picture that an epoch (from 0) shows."""
        item = self._items[place]
        numbers = self._pictures(item)
        if len(numbers) == 1:
            return Look(item, numbers[0])
        return Look(item, numbers[(seed_of("pictures", self._seed, item) + epoch) % len(numbers)])

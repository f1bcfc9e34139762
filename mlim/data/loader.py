"""Batches in an order that is a pure function of (seed, epoch), fetched ahead while the model computes."""

import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlim.data.seeds import numpy_generator
from mlim.data.workers import fetch_in_workers
from mlim.errors import InputError, MlimError

BATCHES_AHEAD = 2  # one being decoded, one ready; Pillow decodes outside the interpreter lock

Example = TypeVar("Example")
Batch = TypeVar("Batch")


def chunks(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """The examples in order, `size` at a time; the last part may be shorter."""
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def fetch_ahead(
    collate: Callable[[Example], Batch], parts: Iterable[Example], ahead: int = BATCHES_AHEAD
) -> Generator[Batch, None, None]:
    """`collate` of every part, in order, computed in `ahead` threads as many parts ahead of the reader."""
    waiting: deque[Future[Batch]] = deque()
    source = iter(parts)
    with ThreadPoolExecutor(ahead, thread_name_prefix="mlim-loader") as pool:
        waiting.extend(pool.submit(collate, part) for part in itertools.islice(source, ahead))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(collate, part) for part in itertools.islice(source, 1))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class EpochExamples(ABC, Generic[Example]):
    """Examples that are not the same in every epoch: pure functions of their place and the epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are, in every epoch."""

    @abstractmethod
    def at(self, place: int, epoch: int) -> Example:
        """The example at a place in an epoch, counted from 0."""


class _Same(EpochExamples[Example]):
    """Examples that are the same in every epoch."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def at(self, place: int, epoch: int) -> Example:
        return self._examples[place]


class ShuffledStream:
    """The numbers below `count` in an endless order: permutation after permutation, one for each epoch.

    Every epoch's order is a pure function of (seed, epoch); memory holds one of them.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._kept: tuple[int, NDArray[np.int64]] = (0, self.order(0))

    def order(self, epoch: int) -> NDArray[np.int64]:
        """One epoch's permutation (count,)."""
        return numpy_generator("order", self._seed, epoch).permutation(self._count)

    def take(self, position: int, size: int) -> NDArray[np.int64]:
        """The `size` numbers from `position` of the stream on; they may straddle epochs."""
        parts = []
        while size > 0:
            epoch, start = divmod(position, self._count)
            if self._kept[0] != epoch:
                self._kept = (epoch, self.order(epoch))
            parts.append(self._kept[1][start : start + size])
            position, size = position + len(parts[-1]), size - len(parts[-1])
        return np.concatenate(parts)


class BatchLoader(Generic[Example, Batch]):
    """Endless shuffled batches for one of `world_size` ranks; every batch is full and no example is left out.

    All ranks read one stream: a global batch is its next world_size * batch_size examples, rank r takes the r-th part.
    The order does not depend on `workers` (0: threads of this process). `state_dict` names the next batch the reader
    will get, whatever was fetched ahead, and can be loaded on another number of ranks. Raises `InputError` when there
    is nothing to read.
    """

    def __init__(
        self,
        examples: Sequence[Example] | EpochExamples[Example],
        batch_size: int,
        seed: int,
        collate: Callable[[Sequence[Example]], Batch],
        *,
        workers: int = 0,
        batches_ahead: int = BATCHES_AHEAD,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not len(examples):
            raise InputError("nothing to train on: the train split is empty; check `mlim pairs` and the catalog")
        self._examples = examples if isinstance(examples, EpochExamples) else _Same(examples)
        self._batch_size, self._collate = batch_size, collate
        self._workers, self._ahead = workers, batches_ahead
        self._rank, self._world_size = rank, world_size
        self._stream = ShuffledStream(len(examples), seed)
        self._position = 0
        self._batches: Generator[Batch, None, None] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            parts = self._parts(self._position)
            if self._workers:
                self._batches = fetch_in_workers(self._collate, parts, self._workers, self._ahead)
            else:
                self._batches = fetch_ahead(self._collate, parts, self._ahead)
        batch = next(self._batches)
        self._position += self._global_batch
        return batch

    @property
    def _global_batch(self) -> int:
        return self._world_size * self._batch_size

    def _parts(self, position: int) -> Iterator[list[Example]]:
        for first in itertools.count(position + self._rank * self._batch_size, self._global_batch):
            places = self._stream.take(first, self._batch_size).tolist()
            yield [self._examples.at(place, at // len(self._examples)) for at, place in enumerate(places, first)]

    def state_dict(self) -> dict[str, int]:
        """Where the next global batch starts in the stream, counted in examples."""
        return {"position": self._position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue with the batch that `state_dict` named; `MlimError` for the state of an older version."""
        if "position" not in state:
            raise MlimError("the checkpoint is from an older version of mlim; start with --resume never")
        self.close()
        self._position = state["position"]

    def close(self) -> None:
        """Stop fetching ahead."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

"""Batches in an order that is a pure function of (seed, epoch), fetched ahead while the model computes."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlim.data.seeds import numpy_generator
from mlim.errors import InputError

BATCHES_AHEAD = 2  # one being decoded, one ready; Pillow decodes outside the interpreter lock

Example = TypeVar("Example")
Batch = TypeVar("Batch")


def chunks(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    """The examples in order, `size` at a time; the last part may be shorter."""
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def fetch_ahead(collate: Callable[[Example], Batch], parts: Iterable[Example]) -> Iterator[Batch]:
    """`collate` of every part, in order, computed in threads a few parts ahead of the reader."""
    waiting: deque[Future[Batch]] = deque()
    source = iter(parts)
    with ThreadPoolExecutor(BATCHES_AHEAD, thread_name_prefix="mlim-loader") as pool:
        waiting.extend(pool.submit(collate, part) for part in itertools.islice(source, BATCHES_AHEAD))
        try:
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(collate, part) for part in itertools.islice(source, 1))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class BatchLoader(Generic[Example, Batch]):
    """Endless shuffled batches; every epoch has its own order and drops its last short batch.

    Fewer examples than one batch: each epoch is one batch in which examples repeat. `state_dict` names the next batch
    the reader will get, whatever was fetched ahead. Raises `InputError` when there is nothing to read.
    """

    def __init__(
        self, examples: Sequence[Example], batch_size: int, seed: int, collate: Callable[[Sequence[Example]], Batch]
    ) -> None:
        if not examples:
            raise InputError("nothing to train on: the train split is empty; check `mlim pairs` and the catalog")
        self._examples, self._batch_size, self._seed, self._collate = examples, batch_size, seed, collate
        self._batches = max(1, len(examples) // batch_size)  # per epoch
        self._served = 0
        self._order: tuple[int, NDArray[np.int64]] = (0, self.order(0))
        self._stream: Iterator[Batch] | None = None

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The positions of the examples in the order of one epoch; at least one batch long."""
        order = numpy_generator("order", self._seed, epoch).permutation(len(self._examples))
        return np.resize(order, max(len(order), self._batch_size))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._stream is None:
            self._stream = fetch_ahead(self._collate, self._parts(self._served))
        batch = next(self._stream)
        self._served += 1
        return batch

    def _parts(self, first: int) -> Iterator[Sequence[Example]]:
        for number in itertools.count(first):
            epoch, batch = divmod(number, self._batches)
            if self._order[0] != epoch:
                self._order = (epoch, self.order(epoch))
            start = batch * self._batch_size
            yield [self._examples[place] for place in self._order[1][start : start + self._batch_size]]

    def state_dict(self) -> dict[str, int]:
        """Where the next batch is: epoch and batch."""
        epoch, batch = divmod(self._served, self._batches)
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue with the batch that `state_dict` named."""
        self.close()
        self._served = state["epoch"] * self._batches + state["batch"]

    def close(self) -> None:
        """Stop fetching ahead."""
        if self._stream is not None:
            self._stream.close()  # type: ignore[attr-defined]
            self._stream = None

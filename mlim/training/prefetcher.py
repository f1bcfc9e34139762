"""The batches of the next step, made while this one is computed."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic

from mlim.data.loader import BatchLoader
from mlim.tasks.protocols import P


class Prefetcher(Generic[P]):
    """What `make` takes from `loader` for each of `steps` steps, one step ahead in a thread.

    `state_dict` names the next batch that a step will get, whatever was taken ahead.
    """

    def __init__(self, loader: BatchLoader[Any, Any], make: Callable[[int], Sequence[P]], steps: int) -> None:
        self._loader, self._make, self._steps = loader, make, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlim-ahead")
        self._next: Future[Sequence[P]] | None = None
        self._state = loader.state_dict()

    def take(self, step: int) -> Sequence[P]:
        """The batches of `step`; steps come one after another. Raises what `make` raises."""
        batches = self._make(step) if self._next is None else self._next.result()
        self._state, self._next = self._loader.state_dict(), None
        if step + 1 < self._steps:
            self._next = self._thread.submit(self._make, step + 1)
        return batches

    def state_dict(self) -> dict[str, int]:
        """Where the loader stood before it was asked for what no step has got yet."""
        return self._state

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue there, before the first `take`; raises what the loader's own raises."""
        self._loader.load_state_dict(state)
        self._state = self._loader.state_dict()

    def close(self) -> None:
        """Stop taking ahead, and close the loader."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._loader.close()

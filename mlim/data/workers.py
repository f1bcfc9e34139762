"""Batches made in other processes: pictures are decoded beside the training, on cores of their own."""

import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from mlim.errors import MlimError

# Workers are forked from a small server that has these loaded, never from the training process and its threads.
START, PRELOADED = "forkserver", ["mlim.data.collate"]

GRACE_SECONDS = 30  # for the training to take its last step after a signal to all processes

Example = TypeVar("Example")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class _Failure:
    """What went wrong in a worker; `known` is meant for a person."""

    known: MlimError | None
    trace: str


class _Batches(Generic[Example, Batch]):
    """`collate` as torch wants a data set: what it is asked for are the examples themselves."""

    def __init__(self, collate: Callable[[Sequence[Example]], Batch]) -> None:
        self._collate = collate

    def __getitems__(self, examples: Sequence[Example]) -> Batch | _Failure:
        try:
            return self._collate(examples)
        except MlimError as error:
            return _Failure(error, "")
        except Exception:  # raised again in the training process
            return _Failure(None, traceback.format_exc())


def fetch_in_workers(
    collate: Callable[[Sequence[Example]], Batch], parts: Iterable[Sequence[Example]], workers: int, ahead: int
) -> Generator[Batch, None, None]:
    """`collate` of every part, in order, made in `workers` processes, each `ahead` batches in advance.

    `collate` is pickled, so it should hold paths rather than data. An `MlimError` in a worker is raised here;
    `MlimError` also when a worker dies.
    """
    ready = _start(collate, parts, workers, ahead)
    batch = _next(ready)
    while not isinstance(batch, _Failure | None):
        yield batch
        batch = _next(ready)
    del ready  # the last reference, before a traceback can keep it: torch ends the workers now
    if batch is not None:
        raise batch.known or RuntimeError(f"a loader's process failed:\n{batch.trace}")


def _next(ready: Iterator[Batch | _Failure]) -> Batch | _Failure | None:
    """The next batch; None after the last."""
    try:
        return next(ready, None)
    except (RuntimeError, OSError, EOFError) as error:  # what torch and its pipes say of a dead process
        return _Failure(_died(error), "")


def _start(collate: Callable[..., Batch], parts: Iterable[Any], workers: int, ahead: int) -> Iterator[Batch | _Failure]:
    context = multiprocessing.get_context(START)
    context.set_forkserver_preload(PRELOADED)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="This DataLoader will create"
        )  # more workers than cores: as asked for
        loader: Any = DataLoader(
            _Batches(collate),  # type: ignore[arg-type]
            batch_sampler=parts,
            num_workers=workers,
            prefetch_factor=ahead,
            collate_fn=_as_it_is,
            worker_init_fn=_live_with_the_training,
            multiprocessing_context=context,
            generator=torch.Generator(),  # torch seeds its workers from it, else from the generator that drops out
        )
        return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch


def _live_with_the_training(_: int) -> None:
    """Outlive the signals that mean the training, and end with it even when it is killed.

    Ctrl-C, a batch system or a service manager signal the whole group, but the training needs its workers until its
    last checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS))  # an alarm that nobody handles is the end
    threading.Thread(target=_end_after_the_training, daemon=True).start()


def _end_after_the_training() -> None:
    """Wait for the process that started this one (torch watches the parent, which here is the fork server)."""
    training = multiprocessing.parent_process()
    if training is not None:
        training.join()
        os._exit(1)


def _died(error: BaseException) -> MlimError:
    return MlimError(
        f"a process that decodes pictures died ({error}), most likely for want of memory or of shared memory "
        "(/dev/shm); set loader.workers or loader.batches_ahead lower and run the same command again"
    )

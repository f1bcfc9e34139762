"""Batches made in other processes: pictures are decoded beside the training, on cores of their own.

A worker leaves a batch's tensors in memory that it shares with the training process, and uses that memory again once
they have been copied out. (torch's DataLoader maps fresh memory for every batch: the kernel clears each of its pages,
which took a third of a worker's time; docs/decisions/0002-loader.md.)
"""

import atexit
import functools
import io
import itertools
import mmap
import multiprocessing
import pickle
import shutil
import signal
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.errors import MlimError

# Workers are forked from a small server that has these loaded, never from the training process and its threads.
PRELOADED = ["mlim.data.collate"]
SHARED_FOLDER = Path("/dev/shm")  # noqa: S108 - memory, where the system has it as a folder; else the temporary folder
ROOM = 1.25  # a block is this many times larger than the first batch in it: texts differ in length
PICKLE_PROTOCOL = 5  # hands large buffers out beside the pickle
JOIN_SECONDS = 5.0

Example = TypeVar("Example")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class _Message:
    """A batch on its way: the sizes of its parts, one after another in the file `path`; the last one is its pickle.

    It stays small, so that a worker never waits for the training to read it.
    """

    path: Path
    sizes: list[int]


@dataclass(frozen=True)
class _Failure:
    """What went wrong in a worker; `known` is meant for a person."""

    known: MlimError | None
    trace: str


def fetch_in_workers(
    collate: Callable[[Sequence[Example]], Batch], parts: Iterable[Sequence[Example]], workers: int, ahead: int
) -> Generator[Batch, None, None]:
    """`collate` of every part, in order, made in `workers` processes, each `ahead` batches in advance.

    `collate` is pickled, so it should hold paths rather than data. An `MlimError` in a worker is raised here;
    `MlimError` also when a worker dies.
    """
    shared = Path(tempfile.mkdtemp(prefix="mlim-loader-", dir=SHARED_FOLDER if SHARED_FOLDER.is_dir() else None))
    team: list[_Worker[Example, Batch]] = []
    close = functools.partial(_close, team, shared)
    atexit.register(close)  # for a caller that does not close the batches
    try:
        team.extend(_Worker(collate, shared, ahead) for _ in range(workers))
        yield from _in_turn(team, iter(parts), ahead)
    finally:
        atexit.unregister(close)
        close()


def _in_turn(
    team: "Sequence[_Worker[Example, Batch]]", parts: Iterator[Sequence[Example]], ahead: int
) -> Iterator[Batch]:
    waiting: deque[_Worker[Example, Batch]] = deque()
    for worker, part in zip(itertools.cycle(team), itertools.islice(parts, len(team) * ahead), strict=False):
        worker.ask(part)
        waiting.append(worker)
    while waiting:
        worker = waiting.popleft()
        batch = worker.take()
        for part in itertools.islice(parts, 1):
            worker.ask(part)
            waiting.append(worker)
        yield batch


def _close(team: "Sequence[_Worker[Any, Any]]", shared: Path) -> None:
    for worker in team:
        worker.connection.close()  # tells the worker to end
    for worker in team:
        worker.end()
    shutil.rmtree(shared, ignore_errors=True)


class _Worker(Generic[Example, Batch]):
    """The training's end of one process."""

    def __init__(self, collate: Callable[[Sequence[Example]], Batch], shared: Path, ahead: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, collate, shared, ahead), daemon=True)
        self._process.start()
        theirs.close()
        self._blocks: dict[Path, mmap.mmap] = {}

    def ask(self, part: Sequence[Example]) -> None:
        """Have a batch made; batches come back in the order in which they were asked for."""
        with suppress(OSError):  # it died: `take` says so
            self.connection.send(part)

    def take(self) -> Batch:
        """The oldest batch that was asked for; `MlimError` when the process died or found something wrong."""
        try:
            found: _Message | _Failure = self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(JOIN_SECONDS)
            raise MlimError(
                f"a process that decodes pictures died (exit code {self._process.exitcode}), most likely for want of "
                "memory; set loader.workers or loader.batches_ahead lower and run the same command again"
            ) from error
        if isinstance(found, _Failure):
            raise found.known or RuntimeError(f"a loader's process failed:\n{found.trace}")
        *buffers, pickled = self._copied(found)
        batch: Batch = pickle.loads(pickled.data, buffers=buffers)  # noqa: S301 - made by our own process
        return batch

    def _copied(self, message: _Message) -> list[NDArray[np.uint8]]:
        """The parts of a batch, out of the block: the worker uses it again."""
        block = np.frombuffer(self._block(message.path), np.uint8)
        ends = itertools.accumulate(message.sizes, initial=0)
        return [block[start:end].copy() for start, end in itertools.pairwise(ends)]

    def _block(self, path: Path) -> mmap.mmap:
        if path not in self._blocks:
            with path.open("r+b") as file:
                self._blocks[path] = mmap.mmap(file.fileno(), 0)
        return self._blocks[path]

    def end(self) -> None:
        """Wait for the process, not for long."""
        self._process.join(JOIN_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


# ---- in the worker ----


def _serve(connection: Connection, collate: Callable[[Sequence[Any]], Any], shared: Path, ahead: int) -> None:
    """Make batches until the training process closes its end or dies.

    Ctrl-C, a batch system or a service manager signal the whole group; the training needs its workers until its last
    checkpoint, so they leave signals to it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    # The training asks for one more batch when it has copied one out. So of `ahead` blocks, the one whose turn it is
    # has always been read.
    blocks = itertools.cycle([_Block(shared) for _ in range(ahead)])
    with suppress(EOFError, ConnectionError):
        while True:
            connection.send(_make(collate, connection.recv(), next(blocks)))
    shutil.rmtree(shared, ignore_errors=True)  # a training that was killed cannot do it


def _make(collate: Callable[[Sequence[Any]], Any], part: Sequence[Any], block: "_Block") -> _Message | _Failure:
    try:
        return _pack(collate(part), block)
    except MlimError as error:
        return _Failure(error, "")
    except Exception:  # raised again in the training process
        return _Failure(None, traceback.format_exc())


def _pack(batch: Any, block: "_Block") -> _Message:
    target, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(target, PICKLE_PROTOCOL, buffer_callback=buffers.append).dump(batch)
    views = [*(buffer.raw() for buffer in buffers), target.getbuffer()]
    return _Message(block.put(views), [view.nbytes for view in views])


class _Pickler(pickle.Pickler):
    """Tensors as arrays, whose numbers stay outside the pickle."""

    def reducer_override(self, value: Any) -> Any:
        """How a tensor is pickled; everything else as always."""
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        order = sorted(range(value.dim()), key=value.stride, reverse=True)  # as it lies in memory
        return _restored, (value.permute(order).contiguous().numpy(), [order.index(axis) for axis in range(len(order))])


def _restored(numbers: Any, order: list[int]) -> torch.Tensor:
    return torch.from_numpy(numbers).permute(order)


class _Block:
    """Memory that both processes map; it is made when it is first needed, and again when a batch outgrows it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path, self._memory = folder, folder, memoryview(b"")

    def put(self, views: Sequence[memoryview]) -> Path:
        """Write the views one after another and give the block's file; `MlimError` when there is no room."""
        needed = sum(view.nbytes for view in views)
        if needed > self._memory.nbytes:
            self._grow(int(needed * ROOM))
        start = 0
        for view in views:
            self._memory[start : start + view.nbytes] = view
            start += view.nbytes
        return self._path

    def _grow(self, size: int) -> None:
        number, name = tempfile.mkstemp(dir=self._folder)
        self._path = Path(name)
        try:
            with open(number, "r+b") as file:  # noqa: PTH123 - a descriptor
                file.write(bytes(size))  # now: a page that is missing later would kill the process
                file.flush()
                self._memory = memoryview(mmap.mmap(number, size))
        except OSError as error:
            self._path.unlink()
            raise MlimError(
                f"no room for {size} bytes of shared memory in {self._folder.parent} ({error.strerror}); enlarge it, "
                "set loader.workers or loader.batches_ahead lower, or set loader.workers to 0"
            ) from error

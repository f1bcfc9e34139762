"""Decoding in processes that may die: a picture that hangs, crashes or exhausts memory is rejected alone.

Pebble's pool kills a process at its time limit and starts another. Pictures are decoded a few at a time; when such a
batch is lost, each of its pictures gets a process for itself, and the one that is to blame is rejected.
"""

import multiprocessing
import pickle
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as OutOfTimeError
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import psutil
from pebble import ProcessExpired, ProcessPool

from mlim.catalog.rejection import RejectedError, Rejection
from mlim.errors import MlimError
from mlim.pictures.base import PictureStore
from mlim.pictures.decoding import (
    TOO_MUCH_MEMORY,
    ImageRules,
    Picture,
    allow_metadata,
    prepare_picture,
    thumbnail_of,
    use_one_thread,
)
from mlim.processes import die_with_parent

DECODE_TIMEOUT = "decode-timeout"
DECODER_DIED = "decoder-died"
MAY_PASS = frozenset({DECODE_TIMEOUT, DECODER_DIED})  # on a machine that is less busy

STORES = ("archives", "byte_ranges", "folder", "parquet_images", "router", "web")
LOADED_ONCE = [f"mlim.pictures.{module}" for module in ("sandbox", *STORES)]
GONE = "the decoding processes are gone ({}); run the same command again"
PICTURES_PER_BATCH = 16  # enough to hide the cost of a message, few enough to decode again when one is lost
BYTES_PER_MB = 1 << 20


@dataclass(frozen=True)
class DecodeLimits:
    """What one picture may take: seconds, and megabytes of memory beyond what its process has before."""

    seconds: float
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Job:
    """A picture to open. A row that is rejected already only gets a thumbnail, shown to the person who corrects it."""

    reference: str
    rejection: Rejection | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job: a picture, or a rejection with a thumbnail where one can be made."""

    result: Picture | Rejection
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Sandbox:
    """A running pool of decoding processes for one store; `decode` may be called from several threads."""

    pool: ProcessPool
    limits: DecodeLimits
    packed: bytes  # store and rules, as the processes get them
    running: set["Future[list[Outcome]]"] = field(default_factory=set)

    def close(self) -> None:
        """End the processes, and raise `MlimError` in waiting threads: Pebble would leave them waiting."""
        self.pool.close()
        for future in list(self.running):
            future.cancel()
        self.pool.stop()
        self.pool.join()

    def decode(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcome of every job, in order. `MlimError` when the pool itself is gone."""
        parts = [jobs[start : start + PICTURES_PER_BATCH] for start in range(0, len(jobs), PICTURES_PER_BATCH)]
        started = [self._start(part) for part in parts]
        return [outcome for part, future in zip(parts, started, strict=True) for outcome in self._finish(part, future)]

    def _start(self, jobs: Sequence[Job]) -> "Future[list[Outcome]]":
        try:
            future: Future[list[Outcome]] = self.pool.schedule(
                _decode, args=(list(jobs), self.packed), timeout=self.limits.seconds
            )
        except RuntimeError as error:
            raise MlimError(GONE.format(error)) from None
        self.running.add(future)
        future.add_done_callback(self.running.discard)
        return future

    def _finish(self, jobs: Sequence[Job], future: "Future[list[Outcome]]") -> list[Outcome]:
        try:
            return future.result()
        except CancelledError:
            raise MlimError(GONE.format("ingest has ended")) from None
        except OutOfTimeError:
            lost = Rejection(DECODE_TIMEOUT, f"takes more than ingest.decode_seconds {self.limits.seconds:g} to decode")
        except BrokenProcessPool as broken:
            raise MlimError(
                f"the decoding processes end as they start ({broken}). A Python script has to call mlim under "
                '`if __name__ == "__main__":`, because these processes import it; or memory ran out: try '
                "--set ingest.workers=1"
            ) from None
        except ProcessExpired as expired:
            lost = Rejection(DECODER_DIED, f"ends the process that decodes it (exit code {expired.exitcode})")
        if len(jobs) == 1:
            return [Outcome(Rejection(lost.reason, f"{jobs[0].reference} {lost.detail}"))]
        alone = [(job, self._start([job])) for job in jobs]
        return [outcome for job, again in alone for outcome in self._finish([job], again)]


@contextmanager
def open_sandbox(processes: int, limits: DecodeLimits, store: PictureStore, rules: ImageRules) -> Iterator[Sandbox]:
    """A sandbox of so many processes for the pictures of `store`; they are ended when the block is left."""
    packed = pickle.dumps((store, rules))
    # Copies of one process that has loaded all and has no threads: a decoder that a picture killed is replaced at once.
    # (A copy of this process could hang, as it has threads, of Dask and Arrow.)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED_ONCE)
    pool = ProcessPool(processes, initializer=_confine, initargs=(limits.memory_mb, packed), context=context)
    with closing(Sandbox(pool, limits, packed)) as sandbox:
        yield sandbox


def _confine(memory_mb: int, packed: bytes) -> None:
    """Runs in a decoding process as it starts: what the store needs comes before the limits, not out of them."""
    die_with_parent()
    use_one_thread()
    allow_metadata(memory_mb * BYTES_PER_MB)
    store, _ = _unpacked(packed)
    store.prefetch(())
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + memory_mb * BYTES_PER_MB
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def _decode(jobs: Sequence[Job], packed: bytes) -> list[Outcome]:
    """Runs in a decoding process."""
    store, rules = _unpacked(packed)
    return [_decode_one(job, store, rules) for job in jobs]


@cache
def _unpacked(packed: bytes) -> tuple[PictureStore, ImageRules]:
    """Store and rules, unpacked once in each process: a store keeps its archives open."""
    unpacked: Any = pickle.loads(packed)  # noqa: S301 - our own bytes, made in `open_sandbox`
    return unpacked[0], unpacked[1]


def _decode_one(job: Job, store: PictureStore, rules: ImageRules) -> Outcome:
    result = _open(job.reference, store, rules)
    if job.rejection is None:
        return Outcome(result)
    return Outcome(job.rejection, None if isinstance(result, Rejection) else thumbnail_of(result))


def _open(reference: str, store: PictureStore, rules: ImageRules) -> Picture | Rejection:
    try:
        return prepare_picture(store.read(reference), reference, rules)
    except RejectedError as rejected:
        return rejected.rejection
    except MemoryError:
        return Rejection(TOO_MUCH_MEMORY, f"{reference} needs more memory than ingest.decode_memory_mb allows")

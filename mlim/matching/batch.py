"""Scores of many pairs of a catalog's items: a table in, the same table with scores out, row by row.

Memory holds a part of the table at a time. Items are prepared first, each once however many pairs it is in; then pairs
are scored in chunks. Both are shared out among processes, and every finished piece is a file: a run that was killed
goes on where it stopped. Each process computes with one thread, and what is computed together depends on the table
alone, so that the result is the same bytes for any number of processes.
"""

import json
import multiprocessing
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlim.catalog.rejection import Rejection
from mlim.catalog.values import tidy
from mlim.console import ProgressBar, Terminal
from mlim.data.tokens import tokens_of
from mlim.errors import InputError, MlimError
from mlim.files import atomic_file, atomic_folder, is_ours, plain_cell, remove_folder, sha256_of, sha256_of_bytes
from mlim.matching.item_cache import Digests, as_digests
from mlim.matching.item_rows import UNKNOWN, ItemRows, Rows
from mlim.matching.model import MatchingModel, Scores
from mlim.matching.pairs_table import SIDES, PairRows, PairsTable, write_table
from mlim.matching.prepared import Caches, ItemReader, PreparedItems, caches_for, content_digests
from mlim.processes import cores, die_with_parent
from mlim.recipe.base import Modality
from mlim.shards.items import ItemStore

FORMAT: Final = 2  # of finished pieces; another one computes them again
PIECES: Final = "scoring-"  # before the key of a run, in the name of the folder of its finished pieces
PAIRS_PER_CHUNK: Final = 4096
ITEMS_PER_BLOCK: Final = 1024
PROCESS_SECONDS: Final = 5.0  # of a core until another process computes (4.7 measured): imports and the model
ADDED: Final[Any] = pa.schema(
    [
        pa.field("score", pa.float64()),  # in [0, 1]; null, like the next two, where a pair was not scored
        pa.field("probability", pa.float64()),  # calibrated, that the two match
        pa.field("match", pa.bool_()),  # the score reaches the threshold
        pa.field("reason", pa.string()),  # why a pair was not scored: a code
        pa.field("detail", pa.string()),  # and a sentence
    ]
)
MISSING_ID, UNKNOWN_ITEM, REJECTED_ITEM = "missing-id", "unknown-item", "rejected-item"
SAME_ITEM, EMPTY_TEXT = "same-item", "empty-text"

Problem = Rejection | None
Quarantine = Mapping[str, str]


@dataclass(frozen=True)
class ScoringRun:
    """A table of pairs to be scored with a model on a catalog's items.

    `quarantined` names why an id is no item any more; `cache` keeps what is computed of items, and finished pieces. A
    pair matches from the score `threshold` on. `cluster` is the address of a Dask scheduler, None: this machine.
    """

    model: MatchingModel
    modality: Modality
    store: ItemStore
    quarantined: Quarantine
    cache: Path
    threshold: float
    chunk: int = PAIRS_PER_CHUNK
    cluster: str | None = None

    def key(self, pairs: Path) -> str:
        """What names all that decides the scores of a table."""
        deciding = [FORMAT, sha256_of(pairs), self.model.sha256, self.store.fingerprint, self.store.version]
        return sha256_of_bytes(json.dumps([*deciding, self.modality, self.chunk]).encode())


@dataclass
class Counts:
    """What became of the rows of a table."""

    pairs: int = 0
    matches: int = 0
    items: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def summary(self) -> dict[str, Any]:
        """The counts by name; `not_scored` by reason."""
        not_scored = dict(sorted(self.reasons.items()))
        scored = self.pairs - sum(not_scored.values())
        return {
            "pairs": self.pairs,
            "scored": scored,
            "matches": self.matches,
            "items": self.items,
            "not_scored": not_scored,
        }


def score_table(
    run: ScoringRun, pairs: PairsTable, out: Path, workers: int | None, terminal: Terminal
) -> dict[str, Any]:
    """Write the table `pairs` with the columns `ADDED` to `out`, one row for each in the same order; its counts.

    `workers` processes compute, 1: this one does, None: one for each core as soon as that takes less time than to start
    them; on a cluster all that it has. Finished pieces of a run that was killed are used again if it scored the same,
    and removed otherwise: one run at a time may use `run.cache` (`mlim.writer`). `InputError` when the table is none of
    pairs, has one of these columns, or changes meanwhile; `MlimError` when a process dies.
    """
    pairs.check(ADDED.names)
    folder = run.cache / f"{PIECES}{run.key(pairs.path)}"
    _remove_other_pieces(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts = Counts()
    rows = _find_rows(run, pairs, folder / "rows.bin", terminal)
    job = _Job.write(run, rows, folder)
    counts.items = len(job.items())
    with _processes(run, job, workers) as work:
        blocks = range(0, counts.items, ITEMS_PER_BLOCK)
        with terminal.progress("read items", counts.items) as bar:
            _advance(work(_read_block, blocks), bar)
        job.plan(run.model)
        with terminal.progress("prepare items", counts.items) as bar:
            _advance(work(_prepare_block, blocks), bar)
        chunks = [start for start in range(0, len(rows), run.chunk) if not job.scores_of(start).is_file()]
        with terminal.progress("score pairs", len(rows)) as bar:
            bar.advance(len(rows) - sum(min(run.chunk, len(rows) - start) for start in chunks))
            _advance(work(_score_chunk, chunks), bar)
    schema = pa.schema([*pairs.schema(), *ADDED])
    write_table(out, schema, _scored(run, pairs, job, counts, schema))
    shutil.rmtree(folder)
    return counts.summary


# ---- the table, in this process ----


def _remove_other_pieces(folder: Path) -> None:
    """Remove what killed runs of other tables, models or items finished: it can be as large as all items' states."""
    for other in folder.parent.glob(f"{PIECES}*"):
        if other != folder and is_ours(other):
            remove_folder(other)


def _find_rows(run: ScoringRun, pairs: PairsTable, path: Path, terminal: Terminal) -> NDArray[np.int64]:
    """The rows (n, 2) of both items of every pair in the store, on disk: -1 for an item that is none."""
    find = ItemRows(run.store)
    with atomic_file(path) as temporary, temporary.open("wb") as target, terminal.progress("read pairs", None) as bar:
        for part in pairs.batches():
            found = np.stack([_rows_of(find, part.table[side].to_pylist()) for side in SIDES], axis=1)
            _usable(run, found).tofile(target)
            bar.advance(len(found))
    if not path.stat().st_size:
        return np.empty((0, 2), dtype=np.int64)
    return np.asarray(np.memmap(path, dtype=np.int64, mode="r").reshape(-1, 2))


def _rows_of(find: ItemRows, ids: Sequence[str | None]) -> Rows:
    """The rows (n,) of ids; one that is unknown is looked for without blanks and as `write_csv` was given it."""
    rows = find.find([item or "" for item in ids])
    unknown = np.flatnonzero(rows == UNKNOWN)
    rows[unknown] = find.find([_tidied(ids[place]) for place in map(int, unknown)])
    return rows


def _tidied(item: str | None) -> str:
    return plain_cell(tidy(item or ""))


def _usable(run: ScoringRun, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows (n, 2) of pairs; both are -1 in a pair that cannot be scored."""
    bad = (rows == UNKNOWN).any(axis=1) | (rows[:, 0] == rows[:, 1])
    if run.modality == "text":
        good = np.flatnonzero(~bad)
        empty = [not text for side in rows[good].T for text in run.store.texts_at(side)]
        bad[good] |= np.array(empty, dtype=bool).reshape(2, -1).any(axis=0)
    return np.where(bad[:, None], UNKNOWN, rows)


def _scored(run: ScoringRun, pairs: PairsTable, job: "_Job", counts: Counts, schema: Any) -> Iterator[Any]:
    """The rows of the table with their scores; `InputError` when they are not those that were scored."""
    find, rows = ItemRows(run.store), job.rows()
    for part in pairs.batches():
        start, size = counts.pairs, part.table.num_rows
        counts.pairs += size
        if counts.pairs > len(rows):
            break
        scores = job.scores(start, size)
        added = _added(run, part, scores, find)
        counts.matches += pc.sum(added["match"]).as_py() or 0
        counts.reasons.update(reason for reason in added["reason"].to_pylist() if reason is not None)
        yield pa.Table.from_arrays([*part.table.columns, *added.columns], schema=schema)
    if counts.pairs != len(rows):
        raise InputError(f"--pairs {pairs.path}: changed while it was scored; run the same command again")


def _added(run: ScoringRun, part: PairRows, scores: Scores, find: ItemRows) -> Any:
    """The columns that are added to some rows; a score (n,) that is NaN has a reason."""
    known = ~np.isnan(scores)
    decided = run.model.decide(np.where(known, scores, 0.0), run.modality)
    match = decided.score >= run.threshold
    columns = [pa.array(np.asarray(values), mask=~known) for values in (scores, decided.probability, match)]
    problems: list[Problem] = [None] * len(scores)
    bad = np.flatnonzero(~known)
    sides = [part.table[side].take(pa.array(bad)).to_pylist() for side in SIDES]
    found = [_rows_of(find, ids) for ids in sides]
    for number, place in enumerate(bad):
        ids, rows = [ids[number] for ids in sides], [int(rows[number]) for rows in found]
        problems[place] = part.rejected.get(int(place)) or _problem(run, ids, rows)
    reasons = [problem and problem.reason for problem in problems]
    details = [problem and problem.detail for problem in problems]
    texts = [pa.array(values, pa.string()) for values in (reasons, details)]
    return pa.Table.from_arrays([*columns, *texts], schema=ADDED)


def _problem(run: ScoringRun, ids: Sequence[str | None], rows: Sequence[int]) -> Rejection:
    """Why a pair was not scored, from the ids of its items and their rows in the store."""
    for side, item, row in zip(SIDES, ids, rows, strict=True):
        if not item or not tidy(item):
            return Rejection(MISSING_ID, f"{side} is empty")
        if row == UNKNOWN and (why := run.quarantined.get(item) or run.quarantined.get(_tidied(item))):
            return Rejection(REJECTED_ITEM, f"{side} `{item}` was rejected from the catalog: {why}")
        if row == UNKNOWN:
            return Rejection(UNKNOWN_ITEM, f"{side} `{item}` is no item of the catalog")
    if rows[0] == rows[1]:
        return Rejection(SAME_ITEM, "both are one item")
    return Rejection(EMPTY_TEXT, "a text is empty, and nothing but texts is read")


# ---- the work, in any process ----


@dataclass(frozen=True)
class _Job:
    """What the processes of a run share: files in its folder."""

    run_folder: Path
    cache: Path
    modality: Modality
    chunk: int

    @classmethod
    def write(cls, run: ScoringRun, rows: NDArray[np.int64], folder: Path) -> "_Job":
        """Name the items of the pairs (n, 2), in the order of their rows."""
        needed = np.zeros(len(run.store), dtype=bool)
        for start in range(0, len(rows), ITEMS_PER_BLOCK**2):
            part = rows[start : start + ITEMS_PER_BLOCK**2]
            needed[part[part != UNKNOWN]] = True
        with atomic_file(folder / "items.bin") as temporary:
            np.flatnonzero(needed).astype(np.int64).tofile(temporary)
        return cls(folder, run.cache, run.modality, run.chunk)

    def rows(self) -> NDArray[np.int64]:
        """The rows of both items of every pair (n, 2), mapped."""
        return _mapped(self.run_folder / "rows.bin").reshape(-1, 2)

    def items(self) -> Rows:
        """The rows of all items of the pairs, in order."""
        return _mapped(self.run_folder / "items.bin")

    def digests_of(self, start: int) -> Path:
        """The file of what names the contents of the block of items that begins with item `start`."""
        return self.run_folder / f"digests-{start:012d}.bin"

    def digests(self) -> Digests:
        """What names the contents of all items (n,)."""
        starts = range(0, len(self.items()), ITEMS_PER_BLOCK)
        return as_digests([self.digests_of(start).read_bytes() for start in starts])

    def caches(self, model: MatchingModel) -> Caches:
        """Where what is computed of items is kept."""
        return caches_for(model, self.modality, self.cache / "items", self.run_folder)

    def plan(self, model: MatchingModel) -> None:
        """Write down once which items have to be computed: equal ones once, where the first of them is."""
        for name, cache in self.caches(model).all.items():
            if not self._plan_of(name).is_file():
                digests = self.digests()
                first = np.zeros(len(digests), dtype=np.bool_)
                first[np.unique(digests, return_index=True)[1]] = True
                with atomic_file(self._plan_of(name)) as temporary:
                    (first & cache.find(digests).missing).tofile(temporary)

    def planned(self, name: str, start: int) -> NDArray[np.bool_]:
        """Which items of the block that begins with item `start` have to be computed."""
        return np.fromfile(self._plan_of(name), dtype=np.bool_, count=ITEMS_PER_BLOCK, offset=start)

    def _plan_of(self, name: str) -> Path:
        return self.run_folder / f"plan-{name}.bin"

    def scores_of(self, start: int) -> Path:
        """The file of the scores of the chunk that begins with pair `start`."""
        return self.run_folder / f"scores-{start:012d}.f8"

    def scores(self, start: int, size: int) -> Scores:
        """The scores (size,) of the pairs from `start` on, NaN where they have none."""
        first = start - start % self.chunk
        parts = [np.fromfile(self.scores_of(at)) for at in range(first, start + size, self.chunk)]
        return np.concatenate([np.empty(0), *parts])[start - first : start - first + size]


def _mapped(path: Path) -> NDArray[np.int64]:
    if not path.stat().st_size:
        return np.empty(0, dtype=np.int64)
    return np.asarray(np.memmap(path, dtype=np.int64, mode="r"))


class _Worker:
    """One process of a run, which may be the one that started it."""

    def __init__(self, model: MatchingModel, store: ItemStore, job: _Job) -> None:
        tokens = tokens_of(store, model.tokenizer, job.cache, job.items(), job.run_folder)
        self.job, self.reader = job, ItemReader(model, job.modality, store, tokens)
        self.caches = job.caches(model)

    @cached_property
    def prepared(self) -> PreparedItems:
        """All items of the pairs, once they are all prepared."""
        return PreparedItems.open(self.reader, self.job.items(), self.job.digests(), self.caches)


def _read_block(worker: _Worker, start: int) -> int:
    """Name the contents of a block of items; how many there are."""
    job = worker.job
    rows = job.items()[start : start + ITEMS_PER_BLOCK]
    if not job.digests_of(start).is_file():
        digests = content_digests(worker.reader.store, rows)
        with atomic_file(job.digests_of(start)) as temporary:
            digests.tofile(temporary)
    return len(rows)


def _prepare_block(worker: _Worker, start: int) -> int:
    """Prepare a block of items; how many there are."""
    job = worker.job
    rows = job.items()[start : start + ITEMS_PER_BLOCK]
    digests = as_digests([job.digests_of(start).read_bytes()])
    wanted = {name: job.planned(name, start) for name in worker.caches.all}
    worker.reader.prepare(rows, digests, wanted, worker.caches)
    return len(rows)


def _score_chunk(worker: _Worker, start: int) -> int:
    """Score a chunk of pairs; how many there are."""
    rows = worker.job.rows()[start : start + worker.job.chunk]
    scores = np.full(len(rows), np.nan)
    good = rows[:, 0] != UNKNOWN
    if good.any():
        scores[good] = worker.prepared.scores(*rows[good].T)
    with atomic_file(worker.job.scores_of(start)) as temporary:
        scores.tofile(temporary)
    return len(rows)


# ---- the processes ----


class Work(Protocol):
    """Does a task for each number, in order, and gives how much each one did."""

    def __call__(self, task: Callable[[_Worker, int], int], starts: Iterable[int], /) -> Iterator[int]:
        """Results in order."""


class Pending(Protocol):
    """A task that another process does."""

    def result(self) -> int:
        """How much was done; waits for it."""

    def cancel(self) -> Any:
        """Do not begin it."""


_WORKER: list[_Worker] = []  # of a process that was started for a run: what its tasks work with


@dataclass(frozen=True)
class _Setup:
    """What another process needs, to do tasks: the folder of the model, the device, and what the run is about."""

    model: Path
    device: str
    store: ItemStore
    job: _Job

    @property
    def key(self) -> str:
        """Names the table, by the folder of its run."""
        return str(self.job.run_folder)

    def start(self) -> _Worker:
        """Load the model; each task computes with one thread."""
        torch.set_num_threads(1)
        return _Worker(MatchingModel.from_folder(self.model, self.device), self.store, self.job)


@contextmanager
def _processes(run: ScoringRun, job: _Job, workers: int | None) -> Iterator[Work]:
    if run.cluster is not None:
        from mlim.matching.cluster import open_scoring_cluster  # Dask takes its time to load

        shared = job.run_folder / "shared"  # every machine sees it
        with atomic_folder(shared) as folder:
            run.model.save(folder / "model")
        setup = _Setup(shared / "model", run.model.device.type, run.store, job)
        with open_scoring_cluster(run.cluster, setup) as (submit, ahead):
            yield lambda task, starts: _in_order(submit, task, iter(starts), ahead)
    elif workers is None and cores() > 1:
        with ExitStack() as opened, _here(run, job) as here:
            yield _Growing(here, lambda: opened.enter_context(_pool(run, job, cores())), cores())
    elif workers is None or workers == 1:
        with _here(run, job) as here:
            yield here
    else:
        with _pool(run, job, workers) as pool:
            yield pool


@contextmanager
def _here(run: ScoringRun, job: _Job) -> Iterator[Work]:
    """This process does the tasks."""
    with one_thread():
        worker = _Worker(run.model, run.store, job)
        yield lambda task, starts: (task(worker, start) for start in starts)


@dataclass
class _Growing:
    """Does tasks in this process until those that are left take longer than to start `workers` others, which then do.

    Which that is changes no result: a task computes the same in any process.
    """

    here: Work
    open_pool: Callable[[], Work]
    workers: int
    pool: Work | None = None

    def __call__(self, task: Callable[[_Worker, int], int], starts: Iterable[int]) -> Iterator[int]:
        left = list(starts)
        while left and self.pool is None:
            began = time.thread_time()
            yield from self.here(task, [left.pop(0)])
            if _pays(time.thread_time() - began, len(left), self.workers):
                self.pool = self.open_pool()
        if left and self.pool is not None:
            yield from self.pool(task, left)


def _pays(seconds: float, tasks: int, workers: int) -> bool:
    """Whether `workers` processes, started first, finish so many tasks sooner; a task takes `seconds` of a core."""
    return seconds * (tasks - -(-tasks // workers)) > PROCESS_SECONDS


@contextmanager
def _pool(run: ScoringRun, job: _Job, workers: int) -> Iterator[Work]:
    """So many other processes do the tasks."""
    with run.model.in_folder() as model:
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(_Setup(model, run.model.device.type, run.store, job),),
        )

        def in_pool(task: Callable[[_Worker, int], int], start: int) -> Pending:
            return pool.submit(_do, task, start)

        with pool:
            yield lambda task, starts: _in_order(in_pool, task, iter(starts), 2 * workers)


def _in_order(
    submit: Callable[..., Pending], task: Callable[[_Worker, int], int], starts: Iterator[int], ahead: int
) -> Iterator[int]:
    flying = [submit(task, start) for start in islice(starts, ahead)]
    try:
        while flying:
            done = flying.pop(0).result()
            flying += [submit(task, start) for start in islice(starts, 1)]
            yield done
    except BrokenProcessPool:
        raise MlimError(
            "a process that scores pairs died, most likely for want of memory; set --workers lower and run the same "
            "command again: what is finished is kept. A Python script has to call mlim under "
            '`if __name__ == "__main__":`, because these processes import it'
        ) from None
    finally:
        for future in flying:
            future.cancel()


def _start(setup: _Setup) -> None:
    die_with_parent()
    _WORKER.append(setup.start())


def _do(task: Callable[[_Worker, int], int], start: int) -> int:
    with threadpool_limits(1):
        return task(_WORKER[0], start)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch and numpy compute with one thread during the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _advance(done: Iterable[int], bar: ProgressBar) -> None:
    for number in done:
        bar.advance(number)

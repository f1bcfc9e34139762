"""What does a Dask cluster cost beside one machine alone, by the number of workers and by the work in each task?

    python benchmarks/dask_workers.py [--workers 2 4 8] [--rows 50000] [--model build/demo --pairs 200000]

A scheduler and workers of one thread each on loopback, of this one machine: with more workers than cores nothing can
get faster, so the figure is work, core-seconds of all processes, beside that of the same command without a cluster.
First tasks that do nothing, then an ingest of a generated catalog cut into shards of several sizes, and, with a model,
scoring of random pairs of its items. Every run begins with empty folders; starting the cluster is not counted.
"""

import argparse
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import psutil
from ingest import draw_small, write_catalog
from measure import heading, table

PACKAGES = ("mlim", "dask", "distributed")
TASKS: Final = 2000
ROWS_PER_SHARD: Final = (250, 4000)
SECONDS: Final = 60


class Spent(NamedTuple):
    """Seconds by the clock, and of cores: the command, or the tasks, with all processes below; scheduler; workers."""

    clock: float
    own: float
    scheduler: float
    workers: float

    @property
    def all(self) -> float:
        """Of all processes."""
        return self.own + self.scheduler + self.workers


class Cluster(NamedTuple):
    """Where its scheduler listens, and its processes."""

    address: str
    scheduler: psutil.Process
    workers: list[psutil.Process]


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[Cluster]:
    """A scheduler and workers, each a process of its own, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    here = ("--host", "127.0.0.1", "--no-dashboard")
    with ExitStack() as stack:
        scheduler = stack.enter_context(_process("scheduler", *here, "--port", address.rpartition(":")[2]))
        kept = ("--nthreads", "1", "--local-directory", str(folder))
        started = [stack.enter_context(_process("worker", address, *here, *kept)) for _ in range(workers)]
        _wait_for(address, workers)
        yield Cluster(address, scheduler, started)


@contextmanager
def _process(*words: str) -> Iterator[psutil.Process]:
    environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__DAEMON": "false"}
    command = [sys.executable, "-m", "dask", *words]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_for(address: str, workers: int) -> None:
    from distributed import Client

    with Client(address, timeout=SECONDS) as client:
        client.wait_for_workers(workers, timeout=SECONDS)


def core_seconds(process: psutil.Process) -> float:
    """What a process and those below it have computed, those that ended included."""
    used = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            used += times.user + times.system
            used += times.children_user + times.children_system
    return used


def spent_on(run: Callable[[], None], of: Cluster | None) -> Spent:
    """What a run costs in this process and those that it waits for, in the scheduler and in the workers."""
    here, clock = sum(os.times()[:4]), time.perf_counter()
    before = _of_cluster(of)
    run()
    parts = (after - earlier for earlier, after in zip(before, _of_cluster(of), strict=True))
    return Spent(time.perf_counter() - clock, sum(os.times()[:4]) - here, *parts)


def _of_cluster(of: Cluster | None) -> tuple[float, float]:
    return (0.0, 0.0) if of is None else (core_seconds(of.scheduler), sum(map(core_seconds, of.workers)))


def nothing(number: int) -> int:
    """A task."""
    return number


def run_tasks(address: str) -> None:
    """As many tasks as `TASKS`, in flight at once as ingest has them."""
    from distributed import Client

    with Client(address, timeout=SECONDS) as client:
        client.gather([client.submit(nothing, number, pure=False) for number in range(TASKS)])


def mlim(*words: object) -> None:
    """A command, which must end well."""
    done = subprocess.run([sys.executable, "-m", "mlim", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def overhead_rows(folder: Path, counts: Sequence[int]) -> Iterator[list[str]]:
    """For each number of workers: what a task that does nothing costs."""
    for count in counts:
        with cluster(folder, count) as of:
            found = spent_on(lambda: run_tasks(of.address), of)
        each = [1e3 * part / TASKS for part in (found.clock, found.own, found.scheduler, found.workers)]
        yield [str(count), *(f"{value:.2f}" for value in each)]


def command_rows(
    folder: Path, counts: Sequence[int], sizes: Sequence[int], run: Callable[[int, str | None, Path], None]
) -> Iterator[list[str]]:
    """For each amount of work in a task: the command alone, then with each number of workers."""
    numbers = itertools.count()
    for size in sizes:
        alone = spent_on(lambda size=size: run(size, None, folder / f"run-{next(numbers)}"), None)
        yield [f"{size:,}", "none", f"{alone.clock:.1f}", f"{alone.all:.1f}", "", "1.00"]
        for count in counts:
            with cluster(folder, count) as of:
                found = spent_on(lambda size=size, at=of.address: run(size, at, folder / f"run-{next(numbers)}"), of)
            told = (f"{found.clock:.1f}", f"{found.all:.1f}", f"{found.scheduler:.1f}", f"{alone.all / found.all:.2f}")
            yield [f"{size:,}", str(count), *told]


def ingesting(catalog: Path) -> Callable[[int, str | None, Path], None]:
    """An ingest with so many rows in each shard."""

    def run(rows_per_shard: int, address: str | None, work: Path) -> None:
        where = "null" if address is None else address
        changed = (f"ingest.rows_per_shard={rows_per_shard}", f"ingest.cluster={where}", "tracking.uri=none")
        sets = [word for setting in changed for word in ("--set", setting)]
        mlim("ingest", "--catalog", catalog, "--work", work, "--quiet", *sets)

    return run


def scoring(model: Path, pairs: Path) -> Callable[[int, str | None, Path], None]:
    """Scoring of the pairs in a copy of the model's work folder; tasks have the size that scoring chooses."""

    def run(_: int, address: str | None, out: Path) -> None:
        work = out / "work"
        shutil.copytree(model, work, ignore=shutil.ignore_patterns("cache", "checkpoints", "variants"))
        where = ("--workers", 1) if address is None else ("--set", f"ingest.cluster={address}")
        mlim("score", "--model", work, "--work", work, "--pairs", pairs, "--out", out / "scores.parquet", "-q", *where)

    return run


def draw_pairs(work: Path, count: int, path: Path) -> None:
    """Random pairs of the accepted items."""
    ids = pd.read_parquet(work / "valid" / "index.parquet", columns=["id"])["id"].to_numpy()
    first, second = np.random.default_rng(0).integers(len(ids), size=(2, count))
    other = first != second
    pd.DataFrame({"item_a": ids[first[other]], "item_b": ids[second[other]]}).to_parquet(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rows", type=int, default=50_000, help="of the generated catalog")
    parser.add_argument("--model", type=Path, help="a work folder with a registered or trained model")
    parser.add_argument("--pairs", type=int, default=200_000)
    options = parser.parse_args()
    print(heading(PACKAGES))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{TASKS:,} tasks that do nothing, milliseconds for each:\n")
        columns = ["workers", "by the clock", "core, client", "core, scheduler", "core, workers"]
        print(table(columns, overhead_rows(folder, options.workers)), flush=True)
        (images := folder / "images").mkdir()
        catalog = write_catalog(folder, draw_small(images), images, options.rows)
        columns = ["rows in a task", "workers", "seconds", "core-seconds", "of them scheduler", "efficiency"]
        print(f"\nIngest of {options.rows:,} rows; efficiency: core-seconds without a cluster, divided by these:\n")
        print(table(columns, command_rows(folder, options.workers, ROWS_PER_SHARD, ingesting(catalog))), flush=True)
        if options.model is not None:
            pairs = folder / "pairs.parquet"
            draw_pairs(options.model, options.pairs, pairs)
            run = scoring(options.model, pairs)
            print(f"\nScoring of {options.pairs:,} random pairs:\n")
            columns[0] = "pairs"
            print(table(columns, command_rows(folder, options.workers, [options.pairs], run)))


if __name__ == "__main__":
    main()

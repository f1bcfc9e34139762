"""Which engine should run ingest? The same job under every candidate, side by side in one run.

The job: read a table of picture paths, decode each file with Pillow, turn it upright and RGB, resize it to 384 x 384,
encode it as JPEG, hash the source bytes, write shards of 500 rows. Candidates take turns (A B C A B C ...), so that a
machine which becomes slower hits all alike. Every measurement is a fresh process: no candidate inherits another's
caches, and its memory is that of its own process tree. Nothing here asserts a time; it prints a table.

    python benchmarks/engines.py --images FOLDER [--limit 3000] [--rounds 3] [--only floor,dask-processes]
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

SIDE = 384
QUALITY = 95
SHARD_ROWS = 500
FLOOR_CHUNK = 50
SAMPLE_SECONDS = 1.0
IDLE_WINDOW_SECONDS = 3.0
IDLE_PERCENT = 10.0
KILL_AFTER_SECONDS = 2.0
CHILD_LIMIT_SECONDS = 300
STARTED = "started"
MEBIBYTE = 2**20

Job = Callable[[Path, Path], None]


# ---- the work itself, the same for every candidate ----


def square_jpeg(data: bytes) -> bytes:
    """The picture as the ingest step makes it: upright, RGB, square, JPEG."""
    with Image.open(io.BytesIO(data)) as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    buffer = io.BytesIO()
    upright.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def picture_only(path: str) -> int:
    """What no engine can avoid; the length is returned so that nothing large travels between processes."""
    return len(square_jpeg(Path(path).read_bytes()))


def jpeg_and_sha(data: bytes) -> tuple[bytes, str]:
    return square_jpeg(data), hashlib.sha256(data).hexdigest()


def shard_table(ids: list[str], results: list[tuple[bytes, str]]) -> pa.Table:
    jpegs = pa.array([jpeg for jpeg, _ in results], pa.binary())
    return pa.table({"id": ids, "jpeg": jpegs, "sha256": [sha for _, sha in results]})


def write_shard(table: pa.Table, target: Path) -> None:
    """Arrow IPC under another name first: a shard that exists is complete, however often its task was tried."""
    partial = target.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    partial.replace(target)


def make_shard(ids: list[str], paths: list[str], target: str) -> int:
    results = [jpeg_and_sha(Path(path).read_bytes()) for path in paths]
    write_shard(shard_table(ids, results), Path(target))
    return len(ids)


def shards_of(table: Path, out: Path) -> Iterator[tuple[list[str], list[str], str]]:
    rows = pq.read_table(table)
    for number, start in enumerate(range(0, rows.num_rows, SHARD_ROWS)):
        part = rows.slice(start, SHARD_ROWS)
        yield part["id"].to_pylist(), part["path"].to_pylist(), str(out / f"{number:05d}.arrow")


# ---- the candidates: each a context that starts the engine and yields the job ----


@contextmanager
def floor(cores: int) -> Iterator[Job]:
    """A bare Pillow loop in `cores` processes: no hash, no shards."""

    def job(table: Path, out: Path) -> None:
        paths = pq.read_table(table)["path"].to_pylist()
        for _ in pool.imap_unordered(picture_only, paths, chunksize=FLOOR_CHUNK):
            pass

    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        yield job


@contextmanager
def bare_shards(cores: int) -> Iterator[Job]:
    """The whole job, hash and shards, in a bare process pool: what the work costs without any engine."""

    def job(table: Path, out: Path) -> None:
        for _ in pool.map(make_shard, *zip(*shards_of(table, out), strict=True)):
            pass

    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield job


@contextmanager
def dask_processes(cores: int) -> Iterator[Job]:
    """One lazy task per shard; the workers are processes of one thread and decode themselves."""
    import dask
    from distributed import Client, LocalCluster

    def job(table: Path, out: Path) -> None:
        tasks = [dask.delayed(make_shard)(*shard) for shard in shards_of(table, out)]
        client.gather(client.compute(tasks))

    cluster = LocalCluster(n_workers=cores, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield job


@contextmanager
def dask_threads(cores: int) -> Iterator[Job]:
    """One lazy task per shard; the threads of one worker process decode: Pillow lets go of the GIL."""
    import dask
    from distributed import Client, LocalCluster

    def job(table: Path, out: Path) -> None:
        tasks = [dask.delayed(make_shard)(*shard) for shard in shards_of(table, out)]
        client.gather(client.compute(tasks))

    cluster = LocalCluster(n_workers=1, threads_per_worker=cores, processes=True, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield job


class ChildPools:
    """A worker plugin: one child process per worker thread, kept between tasks."""

    name = "child-pools"

    def setup(self, worker: Any) -> None:
        self._local = threading.local()
        self._all: list[ProcessPoolExecutor] = []

    def teardown(self, worker: Any) -> None:
        for pool in self._all:
            pool.shutdown(cancel_futures=True)

    def mine(self) -> ProcessPoolExecutor:
        if not hasattr(self._local, "pool"):
            self._local.pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            self._all.append(self._local.pool)
        return self._local.pool

    def drop(self) -> None:
        del self._local.pool


def make_shard_in_child(ids: list[str], paths: list[str], target: str) -> int:
    """The task reads the files, a child of this thread decodes: the child can be limited and killed."""
    from distributed import get_worker

    pools = get_worker().plugins[ChildPools.name]
    pool = pools.mine()
    try:
        sent = [pool.submit(jpeg_and_sha, Path(path).read_bytes()) for path in paths]
        results = [one.result() for one in sent]
    except BrokenProcessPool:
        pools.drop()  # the next try, on this thread, starts a new child
        raise
    write_shard(shard_table(ids, results), Path(target))
    return len(ids)


@contextmanager
def dask_threads_children(cores: int) -> Iterator[Job]:
    """One lazy task per shard; the workers are threads, each of which drives a child process that decodes."""
    import dask
    from distributed import Client, LocalCluster, WorkerPlugin

    class Plugin(ChildPools, WorkerPlugin):
        pass

    def job(table: Path, out: Path) -> None:
        tasks = [dask.delayed(make_shard_in_child)(*shard) for shard in shards_of(table, out)]
        client.gather(client.compute(tasks, retries=2))

    cluster = LocalCluster(n_workers=1, threads_per_worker=cores, processes=False, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.register_plugin(Plugin())
        yield job


@contextmanager
def daft_processes(cores: int) -> Iterator[Job]:
    """Daft's native runner, a batch Pillow UDF in `cores` processes, Daft's Parquet writer."""
    yield lambda table, out: _daft_udf(table, out, cores, use_process=True)


@contextmanager
def daft_threads(cores: int) -> Iterator[Job]:
    """Daft's native runner, a batch Pillow UDF on Daft's own threads, Daft's Parquet writer."""
    yield lambda table, out: _daft_udf(table, out, cores, use_process=False)


def _daft_udf(table: Path, out: Path, cores: int, use_process: bool) -> None:
    import daft

    kind = daft.DataType.struct({"jpeg": daft.DataType.binary(), "sha256": daft.DataType.string()})

    @daft.cls(max_concurrency=cores, use_process=use_process)
    class Decoder:
        @daft.method.batch(return_dtype=kind, batch_size=DAFT_BATCH)
        def __call__(self, paths: Any) -> list[dict[str, Any]]:
            done = (jpeg_and_sha(Path(path).read_bytes()) for path in paths.to_pylist())
            return [{"jpeg": jpeg, "sha256": sha} for jpeg, sha in done]

    frame = daft.read_parquet(str(table)).with_column("made", Decoder()(daft.col("path")))
    made = frame.select(frame["id"], frame["shard"], frame["made"]["jpeg"], frame["made"]["sha256"])
    made.write_parquet(str(out), compression="none", partition_cols=["shard"])


@contextmanager
def daft_kernels(cores: int) -> Iterator[Job]:
    """Daft's own image functions. Not the same job: no EXIF orientation, no JPEG quality, a 64-bit hash."""
    import daft
    from daft import functions

    def job(table: Path, out: Path) -> None:
        frame = daft.read_parquet(str(table)).into_batches(DAFT_BATCH)
        frame = frame.with_column("data", functions.download(daft.col("path")))
        small = functions.resize(functions.decode_image(daft.col("data"), mode="RGB"), SIDE, SIDE)
        frame = frame.with_column("jpeg", functions.encode_image(small, "jpeg"))
        frame = frame.with_column("hash", functions.hash(daft.col("data")))
        made = frame.select("id", "shard", "jpeg", "hash")
        made.write_parquet(str(out), compression="none", partition_cols=["shard"])

    yield job


DAFT_BATCH = 100


@contextmanager
def ray_data(cores: int) -> Iterator[Job]:
    """Ray Data on a local Ray: one block per shard, Ray's Parquet writer."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False

    def decode(batch: pa.Table) -> pa.Table:
        results = [jpeg_and_sha(Path(path).read_bytes()) for path in batch["path"].to_pylist()]
        return shard_table(batch["id"].to_pylist(), results)

    def job(table: Path, out: Path) -> None:
        rows = pq.read_table(table)
        blocks = [rows.slice(start, SHARD_ROWS) for start in range(0, rows.num_rows, SHARD_ROWS)]
        data = ray.data.from_arrow(blocks).map_batches(decode, batch_size=None, batch_format="pyarrow")
        data.write_parquet(str(out), compression="none")

    ray.init(num_cpus=cores, include_dashboard=False, logging_level="warning", log_to_driver=False)
    try:
        yield job
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Candidate:
    """An engine, and the module without which it cannot run."""

    start: Callable[[int], Any]
    module: str


CANDIDATES = {
    "floor": Candidate(floor, "PIL"),
    "bare-shards": Candidate(bare_shards, "pyarrow"),
    "dask-processes": Candidate(dask_processes, "distributed"),
    "dask-threads": Candidate(dask_threads, "distributed"),
    "dask-threads-children": Candidate(dask_threads_children, "distributed"),
    "daft-processes": Candidate(daft_processes, "daft"),
    "daft-threads": Candidate(daft_threads, "daft"),
    "daft-kernels": Candidate(daft_kernels, "daft"),
    "ray-data": Candidate(ray_data, "ray"),
}


# ---- one measurement: a child process, watched from here ----


@dataclass
class Measured:
    """What the rounds of one candidate gave."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    startups: list[float] = field(default_factory=list)
    memories: list[float] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    contents: set[str] = field(default_factory=set)


def child(name: str, cores: int, warm: Path, table: Path, out: Path) -> None:
    """Start the engine, let it do a little of the same job, say so, do the job, say how long it took."""
    (out / "warm").mkdir(parents=True)
    (out / "job").mkdir()
    with CANDIDATES[name].start(cores) as job:
        job(warm, out / "warm")
        print(STARTED, flush=True)
        begun, spent, all_spent = time.perf_counter(), cpu_seconds(), machine_seconds()
        job(table, out / "job")
        seconds, used, all_used = time.perf_counter() - begun, cpu_seconds() - spent, machine_seconds() - all_spent
        others = max(0.0, all_used - used) / (seconds * (os.cpu_count() or 1))
        print(json.dumps({"seconds": seconds, "cpu": used, "others": others}), flush=True)


def tree_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def cpu_seconds() -> float:
    """Processor time of this process and its descendants, ended ones too: what noise of other programs moves least."""
    total = 0.0
    for one in tree_of(psutil.Process()):
        with suppress(psutil.Error):
            total += sum(one.cpu_times()[:4])
    return total


def machine_seconds() -> float:
    """Processor time of everything that runs on this machine."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq


def wait_until_idle(limit: float) -> None:
    """Give other programs up to `limit` seconds to fall silent; measure then in any case (see the column `others`)."""
    ends = time.monotonic() + limit
    while time.monotonic() < ends and psutil.cpu_percent(IDLE_WINDOW_SECONDS) > IDLE_PERCENT:
        pass


def memory_of(process: psutil.Process) -> int:
    """Proportional set sizes: pages shared between processes count once."""
    total = 0
    for one in tree_of(process):
        with suppress(psutil.Error):
            total += one.memory_full_info().pss
    return total


class MemoryWatch(threading.Thread):
    """Samples the memory of a process tree until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._process = psutil.Process(pid)
        self._stop_now = threading.Event()

    def run(self) -> None:
        while not self._stop_now.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, memory_of(self._process))

    def finish(self) -> int:
        self._stop_now.set()
        self.join()
        return self.peak


def kill_busiest(pid: int) -> str:
    """End the descendant that computes most: a worker that decodes. Returns what it was."""
    time.sleep(KILL_AFTER_SECONDS)
    before = {one: sum(one.cpu_times()[:2]) for one in tree_of(psutil.Process(pid))[1:]}
    time.sleep(KILL_AFTER_SECONDS)
    spent: list[tuple[float, psutil.Process]] = []
    for one, seconds in before.items():
        with suppress(psutil.Error):
            spent.append((sum(one.cpu_times()[:2]) - seconds, one))
    used, victim = max(spent, key=lambda pair: pair[0])
    command = " ".join(victim.cmdline()).strip()[-150:]
    what = f"{used:.1f} s of CPU in {KILL_AFTER_SECONDS} s, one of {len(spent)} processes: {command}"
    victim.kill()
    return what


def run_child(arguments: list[str], kill: bool) -> dict[str, Any]:
    """One measurement. `error` is set when the child failed or gave no answer in time."""
    here = Path(__file__).resolve()
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(here.parent)}
    # imported, not run as a script: the engines' workers then find these functions by their names
    command = [sys.executable, "-c", f"import {here.stem}; {here.stem}.main()", *arguments]
    begun = time.perf_counter()
    result: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        limit = threading.Timer(CHILD_LIMIT_SECONDS, process.kill)
        limit.start()
        watch = MemoryWatch(process.pid)
        watch.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == STARTED:
                result["startup"] = time.perf_counter() - begun
                if kill:
                    result["killed"] = kill_busiest(process.pid)
            elif line.startswith('{"seconds"'):
                result.update(json.loads(line))
        code = process.wait()
        limit.cancel()
        result["memory"] = watch.finish()
        errors.seek(0)
        text = errors.read()
    if "seconds" not in result:
        result["error"] = f"exit {code}: {(text.strip().splitlines() or ['no message'])[-1][:300]}"
    if kill:
        result["log"] = text[-3000:]
    return result


def read_output(path: Path) -> pa.Table:
    """One file alone: its folders say nothing about columns."""
    if path.suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    return pq.ParquetFile(path).read()


def describe_output(folder: Path) -> tuple[str, str, str]:
    """Files and rows; a digest of the rows whatever file holds them; a digest of the files' bytes."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".arrow", ".parquet"})
    tables = [read_output(path) for path in files]
    rows = sum(table.num_rows for table in tables)
    largest = max((table.num_rows for table in tables), default=0)
    lines = [f"{row['id']} {hashlib.sha256(row['jpeg']).hexdigest()}" for table in tables for row in table.to_pylist()]
    content = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:12]
    file_hashes = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return (
        f"{rows} rows in {len(files)} files (largest {largest})",
        content,
        hashlib.sha256("\n".join(file_hashes).encode()).hexdigest()[:12],
    )


# ---- the run ----


def write_table(paths: list[Path], target: Path) -> Path:
    shards = [number // SHARD_ROWS for number in range(len(paths))]  # Daft has no other way to cut files by rows
    columns = {"id": [path.stem for path in paths], "path": [str(path) for path in paths], "shard": shards}
    pq.write_table(pa.table(columns), target)
    return target


def run_quietly(arguments: list[str], options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """One measurement, repeated (a few times at most) where other programs took part of the machine meanwhile."""
    for attempt in range(options.repeats + 1):
        shutil.rmtree(out, ignore_errors=True)
        wait_until_idle(options.wait)
        result = run_child(arguments, options.kill)
        if "error" in result or 100 * result["others"] <= IDLE_PERCENT or attempt == options.repeats:
            break
    return result


def measure(name: str, options: argparse.Namespace, folder: Path, into: Measured, images: int) -> None:
    out = folder / "out"
    tables = ["--warm", str(folder / "warm.parquet"), "--table", str(folder / "table.parquet")]
    arguments = ["--child", name, "--cores", str(options.cores), *tables, "--out", str(out)]
    result = run_quietly(arguments, options, out)
    if options.kill:
        print(f"{name}: {json.dumps(result, indent=1)}", file=sys.stderr)
    if "error" in result:
        into.notes.add(result["error"])
        return
    into.rates.append(images / result["seconds"])
    into.cpu.append(1000 * result["cpu"] / images)
    into.others.append(100 * result["others"])
    into.startups.append(result["startup"])
    into.memories.append(result["memory"] / MEBIBYTE)
    if name != "floor":
        rows, content, files = describe_output(out / "job")
        into.notes.add(rows)
        into.contents.add(content)
        into.outputs.add(files)


def version_of(package: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return f"{package} {importlib.metadata.version(package)}"
    return f"{package} not installed"


def cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def heading(options: argparse.Namespace, images: int) -> str:
    versions = ", ".join(version_of(name) for name in ("pillow", "pyarrow", "dask", "distributed", "daft", "ray"))
    memory = psutil.virtual_memory().total / 2**30
    shown = [Path(word).name if os.path.isabs(word) else word for word in sys.argv]  # noqa: PTH117
    command = f"python benchmarks/{shlex.join(shown).removeprefix('benchmarks/')}"
    return "\n".join(
        [
            f"{date.today()}: {images} pictures, {options.rounds} rounds in turn, {options.cores} cores used of "
            f"{os.cpu_count()} ({cpu_model()}), {memory:.0f} GiB memory, Python {platform.python_version()}.",
            f"{versions}.",
            f"`{command}`",
        ]
    )


def row_of(name: str, measured: Measured, base: list[float]) -> str:
    if not measured.rates:
        return f"| {name} | - | - | - | - | - | - | - | - | - | {'; '.join(sorted(measured.notes))} |"
    rate, best = statistics.median(measured.rates), max(measured.rates)
    ratios = f"{rate / statistics.median(base):.2f} | {best / max(base):.2f}" if base else "- | -"
    content, files = ("/".join(sorted(digests)) or "-" for digests in (measured.contents, measured.outputs))
    cells = [
        name,
        f"{rate:.0f} ({min(measured.rates):.0f} to {best:.0f})",
        ratios,
        f"{statistics.median(measured.cpu):.2f}",
        "/".join(f"{percent:.0f}" for percent in measured.others),
        f"{statistics.median(measured.startups):.1f}",
        f"{max(measured.memories):.0f}",
        content,
        files,
        "; ".join(sorted(measured.notes)),
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "engine",
    "pictures/s: median (range)",
    "of floor",
    "best of floor's best",
    "CPU ms/picture",
    "CPU % taken by other programs",
    "start-up s",
    "peak MiB",
    "rows digest",
    "files digest",
    "output",
)


def report(options: argparse.Namespace, images: int, results: dict[str, Measured]) -> str:
    base = results["floor"].rates if "floor" in results else []
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---:|---:|---:|---:|---:|---:|---:|---|---|---|"]
    lines += [row_of(name, measured, base) for name, measured in results.items()]
    return heading(options, images) + "\n\n" + "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of *.jpg files")
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CANDIDATES), help="comma-separated candidates")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for an idle machine before each one")
    parser.add_argument("--repeats", type=int, default=0, help="how often to repeat one that others disturbed")
    parser.add_argument("--kill", action="store_true", help="end a worker while the job runs, report what happens")
    for hidden in ("--child", "--warm", "--table", "--out"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.child:
        child(options.child, options.cores, Path(options.warm), Path(options.table), Path(options.out))
        return
    if options.images is None:
        sys.exit("--images FOLDER is needed")
    paths = sorted(options.images.resolve().glob("*.jpg"))[: options.limit]
    names = options.only.split(",")
    results = {name: Measured() for name in names}
    with tempfile.TemporaryDirectory(prefix="engines-") as place:
        folder = Path(place)
        write_table(paths, folder / "table.parquet")
        write_table(paths[: options.cores * 4], folder / "warm.parquet")
        for turn in range(options.rounds):
            for name in names:
                if importlib.util.find_spec(CANDIDATES[name].module) is None:
                    results[name].notes.add("not installed")
                    continue
                measure(name, options, folder, results[name], len(paths))
                print(f"round {turn + 1}: {name} {results[name].rates[-1:]}", file=sys.stderr)
    print(report(options, len(paths), results))


if __name__ == "__main__":
    main()

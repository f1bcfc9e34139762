"""How long does it take to index vectors, to find the nearest neighbours of all of them, and to follow a change of 1 %?

    python benchmarks/candidates.py [--items 100000] [--systems mlim,usearch] [--threads 1] [--folder DIR]

Vectors are generated, in families of five around middles that lie in 24 of the dimensions, and written to disk; every
system reads them from there, in a process of its own. Recall is measured on a sample of items, against exact answers:
of their k nearest, which beyond the family are strangers, and of the pairs inside their families, which become
candidates if one item of the two finds the other. usearch is no dependency of the project (`pip install usearch`).
Times are processor seconds of all threads, and by the clock. Memory is the process's own; pages of files that are
mapped come on top while there is room.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from measure import GIBIBYTE, SAMPLE_SECONDS, heading, table

PACKAGES = ("faiss-cpu", "usearch", "numpy")
FAMILY = 5
INNER = 24  # dimensions in which the families differ
SPREAD, NOISE = 0.3, 0.2  # of a family, and of each item in all dimensions
BLOCK = 100_000
SAMPLE = 1000
ORIGIN = "benchmark:generated"


def generate(path: Path, items: int, dimensions: int) -> None:
    """Write the vectors, block by block."""
    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(items, dimensions))
    spread = np.random.default_rng(0).normal(size=(INNER, dimensions)).astype(np.float32)
    for start in range(0, items, BLOCK):
        count = min(BLOCK, items - start)
        generator = np.random.default_rng([1, start])
        centres = generator.normal(size=(-(-count // FAMILY), INNER)).astype(np.float32)
        inner = np.repeat(centres, FAMILY, axis=0)[:count]
        inner += SPREAD * generator.normal(size=inner.shape).astype(np.float32)
        noise = generator.standard_normal(size=(count, dimensions), dtype=np.float32)
        block = inner @ spread + np.float32(NOISE * np.sqrt(INNER)) * noise
        values[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    values.flush()


def exact(path: Path, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A sample of items and their nearest others, by comparing with all."""
    values = np.load(path, mmap_mode="r")
    sample = np.sort(np.random.default_rng(2).choice(len(values), min(SAMPLE, len(values)), replace=False))
    queries = values[sample].astype(np.float32)
    best, at = np.full((len(sample), k), -2.0, np.float32), np.full((len(sample), k), -1)
    for start in range(0, len(values), BLOCK):
        near = queries @ values[start : start + BLOCK].astype(np.float32).T
        own = (sample >= start) & (sample < start + BLOCK)
        near[own, sample[own] - start] = -2
        scores = np.concatenate([best, near], axis=1)
        places = np.concatenate([at, np.broadcast_to(np.arange(start, start + near.shape[1]), near.shape)], axis=1)
        kept = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best, at = np.take_along_axis(scores, kept, 1), np.take_along_axis(places, kept, 1)
    return sample, at


Found = np.ndarray  # the neighbours of each of the asked items


class Clock:
    """Processor and wall seconds of named parts."""

    def __init__(self) -> None:
        self.parts: dict[str, tuple[float, float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        processor, wall = time.process_time(), time.perf_counter()
        yield
        self.parts[name] = (time.process_time() - processor, time.perf_counter() - wall)


class Memory(threading.Thread):
    """The most memory, in bytes, that this process had of its own while the block ran."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._ended = 0, threading.Event()

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            lines = Path("/proc/self/status").read_text().splitlines()
            held = next(line.split()[1] for line in lines if line.startswith("RssAnon"))
            self.peak = max(self.peak, int(held) * 1024)


def run_mlim(path: Path, folder: Path, options: argparse.Namespace, clock: Clock) -> Found:
    import faiss

    from mlim.matching.index import IndexSettings, VectorIndex
    from mlim.matching.vectors import Vectors

    faiss.omp_set_num_threads(options.threads)
    k, settings = options.neighbours, IndexSettings(probes=options.probes)
    values, wanted = np.load(path, mmap_mode="r"), families(path)
    vectors = Vectors([f"{number:09d}" for number in range(len(values))], values, ORIGIN)
    with clock.part("index"):
        VectorIndex.build(folder / "index", vectors, settings)
    found = np.full((len(wanted), k), -1)
    with clock.part("search"):
        for near in VectorIndex(folder / "index", ORIGIN, settings).neighbours(vectors.ids, k):
            at = np.minimum(np.searchsorted(wanted, near.first), len(wanted) - 1)
            asked = wanted[at] == near.first
            found[at[asked], near.rank[asked] - 1] = near.second[asked]
    with clock.part("change"):
        changed = len(values) // 100
        after = Vectors([f"new{n}" for n in range(changed)] + vectors.ids[changed:], values, ORIGIN)
        VectorIndex(folder / "index", ORIGIN, settings).update(after)
    return found


def run_usearch(path: Path, folder: Path, options: argparse.Namespace, clock: Clock) -> Found:
    from usearch.index import Index

    values, k, threads = np.load(path, mmap_mode="r"), options.neighbours, options.threads
    keys, name = np.arange(len(values)), str(folder / "usearch.index")
    made = Index(ndim=values.shape[1], metric="ip", dtype="f16", connectivity=16, expansion_add=64, expansion_search=64)
    with clock.part("index"):
        made.add(keys, np.asarray(values), threads=threads)
        made.save(name)
    found = np.full((len(values), k), -1, dtype=np.int32)
    with clock.part("search"):
        opened = Index.restore(name, view=True)
        for start in range(0, len(values), BLOCK):
            rows = opened.search(np.asarray(values[start : start + BLOCK]), k + 1, threads=threads).keys.astype(
                np.int64
            )
            own = rows == keys[start : start + BLOCK, None]
            own[~own.any(axis=1), -1] = True
            found[start : start + BLOCK] = rows[~own].reshape(-1, k)
    with clock.part("change"):
        changed = len(values) // 100
        made.remove(keys[:changed], threads=threads)
        made.add(len(values) + keys[:changed], np.asarray(values[:changed]), threads=threads)
        made.save(name)
    return found[families(path)]


SYSTEMS = {"mlim": run_mlim, "usearch": run_usearch}


def measure(system: str, path: Path, options: argparse.Namespace) -> dict:
    """One system in this process."""
    clock = Clock()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, Memory() as memory:
        (Path(folder) / ".mlim-folder").touch()
        found = SYSTEMS[system](path, Path(folder), options, clock)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    sample, truth = np.load(path.with_name("sample.npy")), np.load(path.with_name("truth.npy"))
    asked = families(path)
    nearest = [np.isin(of, one).mean() for one, of in zip(found[np.searchsorted(asked, sample)], truth, strict=True)]
    recalls = {"nearest": float(np.mean(nearest)), "family": family_pairs_found(asked, found)}
    return {"parts": clock.parts, "size": size, "peak": memory.peak, "recall": recalls}


def families(path: Path) -> np.ndarray:
    """The items of the families of the sample, in order."""
    of_sample = np.unique(np.load(path.with_name("sample.npy")) // FAMILY)
    items = (of_sample[:, None] * FAMILY + np.arange(FAMILY)).ravel()
    return items[items < len(np.load(path, mmap_mode="r"))]


def family_pairs_found(items: np.ndarray, found: Found) -> float:
    """The share of the pairs of items of one family of which one finds the other."""
    known = {(int(item), int(other)) for item, row in zip(items, found, strict=True) for other in row}
    wanted = [
        (int(a), int(b))
        for at, a in enumerate(items)
        for b in items[at + 1 : at + FAMILY]
        if a // FAMILY == b // FAMILY
    ]
    return float(np.mean([(a, b) in known or (b, a) in known for a, b in wanted]))


def row(system: str, found: dict) -> list[str]:
    times = [
        f"{found['parts'][part][0]:,.1f} ({found['parts'][part][1]:,.1f})" for part in ("index", "search", "change")
    ]
    sizes = [f"{found[name] / GIBIBYTE:.2f}" for name in ("size", "peak")]
    return [system, *times, *(f"{share:.3f}" for share in found["recall"].values()), *sizes]


def operations(items: int, options: argparse.Namespace) -> dict[str, float]:
    """Floating-point operations of each part of mlim's index and search where every cell is as large as the others."""
    from mlim.matching.index import POINTS_PER_CELL, ROUNDS, IndexSettings, cells_for

    cells, of_product = cells_for(items, IndexSettings().exact_below), 2 * options.dimensions
    sample = min(POINTS_PER_CELL * cells, items)
    return {
        "k-means of a sample": sample * cells * ROUNDS * of_product,
        "cells of items": items * cells * of_product,
        "cells to search": items * cells * of_product,
        "items compared": items * items / cells * min(options.probes, cells) * of_product,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--probes", type=int, default=16, help="mlim: cells that are searched for each item")
    parser.add_argument("--systems", default="mlim,usearch")
    parser.add_argument("--folder", type=Path, help="where vectors and indexes go; default: a temporary folder")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        path = options.folder / "values.npy"
        print(json.dumps(measure(options.here, path, options)))
        return
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "values.npy"
        generate(path, options.items, options.dimensions)
        sample, truth = exact(path, options.neighbours)
        np.save(path.with_name("sample.npy"), sample)
        np.save(path.with_name("truth.npy"), truth)
        found: dict[str, dict] = {}
        limits = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        for system in options.systems.split(","):
            command = [sys.executable, __file__, *sys.argv[1:], "--folder", folder, "--here", system]
            done = subprocess.run(command, env={**os.environ, **limits}, check=True, stdout=subprocess.PIPE, text=True)
            found[system] = json.loads(done.stdout.splitlines()[-1])
    print(heading(PACKAGES))
    print(
        f"{options.items:,} vectors of {options.dimensions} dimensions, {options.neighbours} neighbours, threads: "
        f"{options.threads}; processor seconds (by the clock)\n"
    )
    k = options.neighbours
    recalls = (f"recall, nearest {k}", "pairs of families found")
    columns = ("system", "index", "search", "1 % changed", *recalls, "GiB on disk", "peak GiB")
    print(table(columns, [row(*one) for one in found.items()]))
    if "mlim" in found:
        print(f"\n{counted(found['mlim'], options)}")


def counted(found: dict, options: argparse.Namespace) -> str:
    """What mlim's index and search had to compute, and how fast it was."""
    parts = operations(options.items, options)
    processor, wall = (sum(found["parts"][part][at] for part in ("index", "search")) for at in (0, 1))
    listed = ", ".join(f"{name} {count / 1e12:.2f}" for name, count in parts.items())
    return (
        f"mlim, index and search: {wall / 60:.1f} minutes by the clock; 10^12 operations: {listed}; "
        f"{sum(parts.values()) / processor / 1e9:.0f} x 10^9 operations per processor second"
    )


if __name__ == "__main__":
    main()

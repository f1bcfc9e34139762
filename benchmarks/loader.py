"""How fast are pictures read from shards for training, beside a bare decode loop and other loaders?

    python benchmarks/loader.py speed --images FOLDER [--python NAME INTERPRETER ...]
    python benchmarks/loader.py memory --items 10000,100000,1000000

`speed` makes the same pictures (384 x 384, JPEG 95) into every loader's own files, then they take turns, each
in a fresh process, reading shuffled batches of 32. The floor decodes and stacks batches in as many processes and does
nothing else: no shuffle, no files, no way to the training process. A loader that cannot be imported is left out;
`--python` gives one an interpreter of its own. `memory` reads catalogs of growing size with two workers.

Everything is run with the page cache warm; memory is anonymous memory (RSS without file-backed and shared pages) of all
processes together.
"""

import argparse
import io
import json
import multiprocessing
import os
import pickle
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from PIL import Image

SIDE, QUALITY, BATCH = 384, 95, 32
AHEAD = 2
SMALL_SIDE = 32  # of the pictures of `memory`
SHARD_ROWS = 500
WARM_BATCHES = 6
RESUME_AFTER, RESUME_CHECKED = 7, 5
SHUFFLE_BUFFER = 1000  # WebDataset's, in samples
MEBIBYTE = 2**20
GPU_APPETITE = 1600  # samples/s at 384 x 384 that one GPU eats (issue 3)
WORDS = ("red", "green", "blue", "shirt", "skirt", "dress", "striped", "plain")


def text_of(number: int) -> str:
    return " ".join(WORDS[number // 8**place % 8] for place in range(4))


def tokens_of(number: int) -> list[int]:
    """What a loader without our tokenizer stores: as many ids as ours makes of the text."""
    return [5 + number // 8**place % 8 for place in range(4)]


def name_of(number: int) -> str:
    return f"item-{number:07d}"


def decode(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples (id, jpeg, tokens) as the others' batch: the same work as ours."""
    import torch

    return {
        "ids": [sample["id"] for sample in samples],
        "pixels": torch.from_numpy(np.stack([decode(sample["jpeg"]) for sample in samples])),
        "tokens": torch.from_numpy(np.array([sample["tokens"] for sample in samples])),
    }


# ---- the same pictures in every loader's own files ----


def square(path: Path) -> bytes:
    with Image.open(path) as picture:
        resized = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    resized.save(target, "JPEG", quality=QUALITY)
    return target.getvalue()


def prepare_pictures(images: Path, limit: int, data: Path) -> int:
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})[:limit]
    with ProcessPoolExecutor() as pool:
        jpegs = list(pool.map(square, paths, chunksize=32))
    (data / "pictures").write_bytes(pickle.dumps(jpegs))
    return len(jpegs)


def pictures(data: Path) -> list[bytes]:
    loaded: list[bytes] = pickle.loads((data / "pictures").read_bytes())
    return loaded


def write_ours(folder: Path, jpegs: Callable[[int], bytes], count: int) -> None:
    """A work folder as ingest and validate leave it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlim.files import sha256_of
    from mlim.shards.shard import ShardEntry, shard_name, write_manifest, write_shard

    (folder / "items").mkdir(parents=True)
    (folder / "valid").mkdir()
    blank = {"attributes": "{}", "facts": "{}", "image_sha256": "", "image_hash": ""}
    blank |= {"image_width": 1, "image_height": 1, "image_brightness": 0.5, "image_contrast": 0.1}
    entries, index = [], []
    for number, start in enumerate(range(0, count, SHARD_ROWS)):
        rows = range(start, min(count, start + SHARD_ROWS))
        items = [{"id": name_of(row), "text": text_of(row), "image": jpegs(row), **blank} for row in rows]
        path = folder / "items" / shard_name(number)
        write_shard(path, items)
        entries.append(ShardEntry(path.name, len(items), path.stat().st_size, sha256_of(path)))
        columns = [[item[key] for item in items] for key in ("id", "text", "attributes")]
        places = [[path.name] * len(items), list(range(len(items)))]
        index.append(pa.table([*columns, *places], names=["id", "text", "attributes", "shard", "position"]))
    write_manifest(folder / "items", entries)
    pq.write_table(pa.concat_tables(index), folder / "valid" / "index.parquet")


def prepare_mlim(data: Path) -> None:
    stored = pictures(data)
    write_ours(data / "mlim", lambda row: stored[row], len(stored))


def prepare_datasets(data: Path) -> None:
    import datasets

    stored = pictures(data)
    rows = [{"id": name_of(row), "jpeg": jpeg, "tokens": tokens_of(row)} for row, jpeg in enumerate(stored)]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(data / "datasets")


def prepare_webdataset(data: Path) -> None:
    (data / "webdataset").mkdir()
    stored = pictures(data)
    for number, start in enumerate(range(0, len(stored), SHARD_ROWS)):
        with tarfile.open(data / "webdataset" / f"{number:05d}.tar", "w") as tar:
            for row in range(start, min(len(stored), start + SHARD_ROWS)):
                for suffix, content in (("jpeg", stored[row]), ("json", json.dumps(tokens_of(row)).encode())):
                    entry = tarfile.TarInfo(f"{name_of(row)}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))


def prepare_mosaic(data: Path) -> None:
    from streaming import MDSWriter

    columns = {"id": "str", "jpeg": "bytes", "tokens": "ndarray:int64"}
    with MDSWriter(out=str(data / "mosaic"), columns=columns) as writer:
        for row, jpeg in enumerate(pictures(data)):
            writer.write({"id": name_of(row), "jpeg": jpeg, "tokens": np.array(tokens_of(row))})


# ---- the loaders ----


class Loader(Protocol):
    """Endless shuffled batches; `__next__` gives the ids of the batch."""

    def __next__(self) -> list[str]: ...
    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any) -> None: ...
    def close(self) -> None: ...


class Mlim:
    def __init__(self, data: Path, workers: int) -> None:
        from mlim.data.collate import ItemCollator
        from mlim.data.loader import BatchLoader
        from mlim.data.tokenize import TextTokenizer
        from mlim.data.tokens import prepare_tokens
        from mlim.shards.items import ItemStore

        store = ItemStore.open(data / "mlim" / "items", data / "mlim" / "valid" / "index.parquet")
        tokenizer = TextTokenizer.learn([text_of(row) for row in range(len(WORDS) ** 2)], 64)
        made = ItemCollator(store, tokenizer, 16, prepare_tokens(store, tokenizer, data / "mlim" / "cache"))
        self._loader = BatchLoader(store.ids, BATCH, 0, made, workers=workers, batches_ahead=AHEAD)
        self.state_dict, self.load_state_dict, self.close = (
            getattr(self._loader, name) for name in ("state_dict", "load_state_dict", "close")
        )

    def __next__(self) -> list[str]:
        return next(self._loader).ids


class Endless:
    """Epoch after epoch of a torch loader that ends."""

    def __init__(self, loader: Any) -> None:
        self._loader, self._batches = loader, None

    def __next__(self) -> list[str]:
        if self._batches is None:
            self._batches = iter(self._loader)
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self._loader)
            batch = next(self._batches)
        return list(batch["ids"])

    def state_dict(self) -> Any:
        return self._loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._batches = None
        self._loader.load_state_dict(state)

    def close(self) -> None:
        self._batches = None


def torch_workers(workers: int) -> dict[str, Any]:
    if not workers:
        return {"num_workers": 0}
    how = {"persistent_workers": True, "multiprocessing_context": "forkserver"}
    return {"num_workers": workers, "prefetch_factor": AHEAD, **how}


def open_datasets(data: Path, workers: int) -> Loader:
    import datasets
    import torch
    from torchdata.stateful_dataloader import StatefulDataLoader

    stored: Any = datasets.load_from_disk(str(data / "datasets"))
    order = torch.Generator().manual_seed(0)
    how = torch_workers(workers)
    return Endless(StatefulDataLoader(stored, BATCH, shuffle=True, generator=order, collate_fn=collate, **how))


def read_tar_sample(sample: dict[str, Any]) -> dict[str, Any]:
    return {"id": sample["__key__"], "jpeg": sample["jpeg"], "tokens": json.loads(sample["json"])}


def open_webdataset(data: Path, workers: int) -> Loader:
    import webdataset

    tars = sorted(str(path) for path in (data / "webdataset").glob("*.tar"))
    stream = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0, empty_check=False)
    stream = stream.shuffle(SHUFFLE_BUFFER).map(read_tar_sample).batched(BATCH, collation_fn=collate)
    return Endless(webdataset.WebLoader(stream, batch_size=None, **torch_workers(workers)))


def open_mosaic(data: Path, workers: int) -> Loader:
    from streaming import StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    stored = StreamingDataset(local=str(data / "mosaic"), shuffle=True, batch_size=BATCH, shuffle_seed=0)
    return Endless(StreamingDataLoader(stored, batch_size=BATCH, collate_fn=collate, **torch_workers(workers)))


OPENERS: dict[str, Callable[[Path, int], Loader]] = {
    "mlim": Mlim,
    "datasets": open_datasets,
    "webdataset": open_webdataset,
    "mosaic": open_mosaic,
}
PREPARERS = {
    "mlim": prepare_mlim,
    "datasets": prepare_datasets,
    "webdataset": prepare_webdataset,
    "mosaic": prepare_mosaic,
}
TITLES = {
    "floor": "floor: decode, stack",
    "floor-in-place": "decode, copied into the batch",
    "floor-turbo": "libjpeg-turbo, into the batch",
    "mlim": "mlim",
    "datasets": "datasets + StatefulDataLoader",
    "webdataset": "WebDataset",
    "mosaic": "MosaicML streaming",
}
GLOBAL_SHUFFLE = {
    "mlim": "yes",
    "datasets": "yes",
    "webdataset": f"no, a buffer of {SHUFFLE_BUFFER}",
    "mosaic": "in blocks of shards",
}


# ---- one measurement, in a process of its own ----


def family() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def anonymous_bytes() -> int:
    """Memory of this process and all below it that is neither file-backed nor shared; forked pages count once."""
    total = 0
    for process in family():
        status = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("Pss_Anon"))
    return total


def cpu_seconds() -> float:
    """What this process and all below it have worked."""
    return sum(sum(process.cpu_times()[:2]) for process in family())


def measure_loader(name: str, data: Path, workers: int, seconds: float) -> dict[str, Any]:
    loader = OPENERS[name](data, workers)
    for _ in range(WARM_BATCHES):
        next(loader)
    before, worked, started, samples = anonymous_bytes(), cpu_seconds(), time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        samples += len(next(loader))
    rate = samples / (time.perf_counter() - started)
    found = {"rate": rate, "per_cpu": samples / (cpu_seconds() - worked), "before": before, "after": anonymous_bytes()}
    loader.close()
    return found


def stack(jpegs: Sequence[bytes]) -> np.ndarray:
    """The floor: decode, then stack."""
    return np.stack([decode(jpeg) for jpeg in jpegs])


def stack_in_place(jpegs: Sequence[bytes]) -> np.ndarray:
    """A lower floor: every picture is copied into the batch while the processor still has it at hand."""
    batch = np.empty((len(jpegs), SIDE, SIDE, 3), np.uint8)
    for place, jpeg in enumerate(jpegs):
        batch[place] = decode(jpeg)
    return batch


def turbo_in_place(jpegs: Sequence[bytes]) -> np.ndarray:
    """The lowest floor: libjpeg-turbo writes every picture into the batch itself."""
    import simplejpeg

    batch = np.empty((len(jpegs), SIDE, SIDE, 3), np.uint8)
    for place, jpeg in enumerate(jpegs):
        simplejpeg.decode_jpeg(jpeg, buffer=batch[place])
    return batch


FLOORS = {"floor": stack, "floor-in-place": stack_in_place, "floor-turbo": turbo_in_place}


def decode_for(name: str, data: Path, seconds: float, results: Any) -> None:
    stored, order = pictures(data), np.random.default_rng(os.getpid())
    started, worked, samples = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < seconds:
        FLOORS[name]([stored[row] for row in order.integers(len(stored), size=BATCH)])
        samples += BATCH
    results.put((samples / (time.perf_counter() - started), samples, time.process_time() - worked))


def measure_floor(name: str, data: Path, workers: int, seconds: float) -> dict[str, Any]:
    results: Any = multiprocessing.SimpleQueue()
    processes = [
        multiprocessing.Process(target=decode_for, args=(name, data, seconds, results)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    rates, samples, worked = zip(*(results.get() for _ in range(workers)), strict=True)
    return {"rate": sum(rates), "per_cpu": sum(samples) / sum(worked), "before": 0, "after": 0}


def check_resume(name: str, data: Path, workers: int) -> dict[str, Any]:
    """Whether a loader made anew gives the same next batches from a state saved in mid-epoch."""
    first = OPENERS[name](data, workers)
    for _ in range(RESUME_AFTER):
        next(first)
    state = pickle.dumps(first.state_dict())
    expected = [next(first) for _ in range(RESUME_CHECKED)]
    first.close()
    again = OPENERS[name](data, workers)
    again.load_state_dict(pickle.loads(state))
    found = [next(again) for _ in range(RESUME_CHECKED)]
    again.close()
    return {"resumes": "yes" if found == expected else "no: other batches"}


def child(job: str, name: str, data: Path, workers: int, seconds: float) -> None:
    """Do one job and print what was found as the last line."""
    found: dict[str, Any] = {}
    try:
        if job == "prepare":
            PREPARERS[name](data)
        elif job == "resume":
            found = check_resume(name, data, workers)
        elif name in FLOORS:
            found = measure_floor(name, data, workers, seconds)
        else:
            found = measure_loader(name, data, workers, seconds)
    except ImportError as error:
        found = {"missing": str(error)}
    except AttributeError as error:
        if job != "resume" or "state_dict" not in str(error):
            raise
        found = {"resumes": "no: has no state"}
    print("\n" + json.dumps(found), flush=True)


class Runner:
    """Starts the measurements, each loader under its own interpreter."""

    def __init__(self, data: Path, seconds: float, interpreters: dict[str, str]) -> None:
        self._data, self._seconds, self._interpreters = data, seconds, interpreters

    def run(self, job: str, name: str, workers: int = 0) -> dict[str, Any]:
        interpreter = self._interpreters.get(name, sys.executable)
        words = [job, name, str(self._data), str(workers), str(self._seconds)]
        command = [interpreter, "-W", "ignore", __file__, "child", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout.rsplit("\n", 2)[-2])
        return found


# ---- speed ----


def speed(arguments: argparse.Namespace) -> None:
    from measure import heading, median_ratio, table

    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        runner = Runner(Path(scratch), arguments.seconds, dict(arguments.python))
        count = prepare_pictures(arguments.images, arguments.limit, Path(scratch))
        missing = {name: runner.run("prepare", name).get("missing") for name in PREPARERS}
        names = [name for name, why in missing.items() if why is None]
        runs = [(name, workers) for workers in arguments.workers for name in (*FLOORS, *names)]
        runs += [("mlim", 0)]
        found: dict[tuple[str, int], list[dict[str, Any]]] = {run: [] for run in runs}
        for _ in range(arguments.rounds):
            for run in runs:
                found[run].append(runner.run("measure", *run))
        resumes = {name: runner.run("resume", name, max(arguments.workers))["resumes"] for name in names}
    rates = {run: [one["rate"] for one in several] for run, several in found.items()}
    efforts = {run: [one["per_cpu"] for one in several] for run, several in found.items()}
    rows = []
    for (name, workers), several in found.items():
        floor = ("floor", workers or max(arguments.workers))
        memory = [statistics.median(one[when] for one in several) / MEBIBYTE for when in ("before", "after")]
        rows.append(
            [
                TITLES[name],
                str(workers) if workers else f"0 ({AHEAD} threads)",
                f"{statistics.median(rates[name, workers]):.0f}",
                f"{median_ratio(rates[name, workers], rates[floor]):.2f}",
                f"{statistics.median(efforts[name, workers]):.0f}",
                f"{median_ratio(efforts[name, workers], efforts[floor]):.2f}",
                "" if name in FLOORS else f"{memory[0]:.0f} -> {memory[1]:.0f}",
                resumes.get(name, ""),
                GLOBAL_SHUFFLE.get(name, ""),
            ]
        )
    columns = ["loader", "processes", "samples/s", "of the floor", "samples per CPU second", "of the floor's"]
    columns += ["anonymous MiB, start -> end", "resumes", "global shuffle"]
    print(heading(["mlim", "pillow", "torch", "pyarrow", "numpy"]))
    print(f"{count} pictures of {SIDE} x {SIDE}, batches of {BATCH}, {arguments.rounds} rounds, medians.\n")
    print(table(columns, rows))
    for name in sorted(set(missing) - set(names)):
        print(f"\n{TITLES[name]}: not installed ({missing[name]})")
    most = max(arguments.workers)
    effort = statistics.median(efforts["mlim", most])
    print(
        f"\n{effort:.0f} samples per second of one core, all processes counted. {GPU_APPETITE} samples/s, what one GPU"
    )
    print(f"eats, take {GPU_APPETITE / effort:.1f} such cores.")


# ---- memory ----


def small_pictures() -> list[bytes]:
    made = []
    for number in range(50):
        target = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((SMALL_SIDE, SMALL_SIDE)).save(target, "JPEG", quality=QUALITY)
        made.append(target.getvalue())
    return made


def memory(arguments: argparse.Namespace) -> None:
    from measure import heading, table

    jpegs, rows = small_pictures(), []
    for count in arguments.items:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
            write_ours(Path(scratch) / "mlim", lambda row: jpegs[row % len(jpegs)], count)
            runner = Runner(Path(scratch), arguments.seconds, {})
            started = time.perf_counter()
            runner.run("resume", "mlim", 0)
            first = time.perf_counter() - started
            found = runner.run("measure", "mlim", 2)
        sizes = [f"{found[when] / MEBIBYTE:.0f}" for when in ("before", "after")]
        rows.append([f"{count:,}", *sizes, f"{found['rate']:.0f}", f"{first:.1f}"])
    print(heading(["mlim", "pillow", "torch", "pyarrow", "numpy"]))
    print(
        f"Pictures of {SMALL_SIDE} x {SMALL_SIDE}, batches of {BATCH}, 2 workers; memory of all processes together.\n"
    )
    columns = [
        "items",
        "anonymous MiB, start",
        f"after {arguments.seconds:.0f} s",
        "samples/s",
        "s to open the first time",
    ]
    print(table(columns, rows))


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("speed")
    one.add_argument("--images", type=Path, required=True)
    one.add_argument("--limit", type=int, default=2000)
    one.add_argument("--rounds", type=int, default=2)
    one.add_argument("--seconds", type=float, default=4.0)
    one.add_argument("--workers", type=numbers, default=[1, 2])
    one.add_argument("--python", nargs=2, action="append", default=[], metavar=("NAME", "INTERPRETER"))
    one.set_defaults(run=speed)
    two = commands.add_parser("memory")
    two.add_argument("--items", type=numbers, default=[10_000, 100_000, 1_000_000])
    two.add_argument("--seconds", type=float, default=20.0)
    two.set_defaults(run=memory)
    for parsed in (one, two):
        parsed.add_argument("--scratch", type=Path, help="where the files are made; default: the system's own place")
    three = commands.add_parser("child")
    for name, kind in (("job", str), ("name", str), ("data", Path), ("workers", int), ("seconds", float)):
        three.add_argument(name, type=kind)
    three.set_defaults(run=lambda given: child(given.job, given.name, given.data, given.workers, given.seconds))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()

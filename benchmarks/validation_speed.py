"""How fast `mlim validate` is: items that were never drawn, real shards, the real step. Prints a Markdown table.

    python benchmarks/validation_speed.py --rows 10000 100000 1000000
    python benchmarks/validation_speed.py --rows 6000000 --bad 0.5
    python benchmarks/validation_speed.py --rows 30000000 --words 2

Every size runs in a process of its own, so that its peak memory is its own. Texts, attributes and facts are as long as
in a real catalog (`--words` makes the texts shorter, for sizes that the disk would not hold); pictures are tiny, as
validation hashes them (with the shard) and decodes a sample only. `--bad` is the share of items that are refused. The
shards are made first and not timed. Core-seconds, user and system, are what validation costs on a busy machine too.
"""

import argparse
import hashlib
import io
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from measure import heading
from PIL import Image

from mlim.catalog.item import ITEM_SCHEMA, ROW_LOG_SCHEMA
from mlim.console import Terminal
from mlim.files import sha256_of
from mlim.recipe import Recipe, load_recipe
from mlim.shards.shard import ShardEntry, shard_name, write_manifest
from mlim.steps.validate import validate
from mlim.workspace import Workspace

SHARD_ROWS = 20_000
FAMILY_SIZE = 4
SIDE = 16
SOURCE = "items.parquet"
WORDS = ("red", "green", "blue", "cotton", "shirt", "long", "sleeve", "modern", "classic", "kids", "linen", "set")
TEXT_WORDS = 14
FEW_WORDS = 3
CATALOG = "table: items.parquet\nimages: .\ncolumns: {id: id, image: image, family: family, text: [text]}\n"
SETTINGS = ("image.size=16", "image.grid=1", "validation.max_quarantined_share=0.9")
GIBIBYTE = 2**30
KIBIBYTE = 2**10


@dataclass(frozen=True)
class Timing:
    """One line of the table."""

    rows: int
    accepted: int
    seconds: float
    core_seconds: float
    peak_gib: float
    shard_bytes: int


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--bad", type=float, default=0.001, help="share of refused items")
    parser.add_argument("--words", type=int, default=TEXT_WORDS, help="words of a text")
    parser.add_argument("--folder", type=Path, help="where the shards are made (default: a temporary folder)")
    options = parser.parse_args()
    print(f"{heading(['great_expectations', 'pyarrow', 'duckdb'])}\n\n{options.bad:.1%} of the items are bad.\n")
    print("| items | accepted | metadata, GB | seconds | core-seconds | items per core-second | peak memory, GiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(_line(_in_own_process(Path(folder), rows, options.bad, options.words)), flush=True)


def _line(timing: Timing) -> str:
    return (
        f"| {timing.rows:,} | {timing.accepted:,} | {timing.shard_bytes / 1e9:.2f} | {timing.seconds:.1f} "
        f"| {timing.core_seconds:.1f} | {timing.rows / timing.core_seconds:,.0f} | {timing.peak_gib:.2f} |"
    )


def _in_own_process(folder: Path, rows: int, bad: float, words: int) -> Timing:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as maker:
        maker.submit(make_items, folder, rows, bad, words).result()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as runner:
        return runner.submit(run_step, folder, rows).result()


def run_step(folder: Path, rows: int) -> Timing:
    """Validate the items of a folder with the real step and measure it."""
    workspace, before, cores_before = Workspace(folder), time.perf_counter(), time.process_time()
    summary = validate(_recipe(), folder / "catalog.yaml", workspace, Terminal(quiet=True))
    seconds, core_seconds = time.perf_counter() - before, time.process_time() - cores_before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE / GIBIBYTE
    size = sum(path.stat().st_size for path in workspace.items.glob("*.arrow"))
    return Timing(rows, summary["accepted"], seconds, core_seconds, peak, size)


def make_items(folder: Path, rows: int, bad: float, words: int = TEXT_WORDS) -> None:
    """Write shards, manifest and row log of `rows` items."""
    (folder / "catalog.yaml").write_text(CATALOG, encoding="utf-8")
    items = Workspace(folder).items
    items.mkdir()
    entries = []
    with pq.ParquetWriter(items / "ledger.parquet", ROW_LOG_SCHEMA) as row_log:
        for number, start in enumerate(range(0, rows, SHARD_ROWS)):
            table = _shard(start, min(SHARD_ROWS, rows - start), bad, words)
            path = items / shard_name(number)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, ITEM_SCHEMA) as writer:
                writer.write_table(table)
            entries.append(ShardEntry(path.name, len(table), path.stat().st_size, sha256_of(path)))
            row_log.write_table(_lines(table["id"], start, path.name))
    write_manifest(items, entries)


def _recipe() -> Recipe:
    strides = "{strides: [16], channels: [8]}"
    return load_recipe("demo", [*SETTINGS, f"model.embedder={strides}", f"model.decoder={strides}"])


def _shard(start: int, count: int, bad: float, words: int) -> Any:
    draw = np.random.default_rng(start)
    numbers = np.arange(start, start + count)
    named = pa.array(numbers).cast(pa.string())
    text = _joined([*_words(draw, count, words), named], " ")
    hashes = pa.array([hashlib.sha256(str(number).encode()).hexdigest() for number in numbers.tolist()])
    width = np.where(draw.random(count) < bad, 1, 300).astype(np.int32)
    columns = {
        "id": _joined(["item-", named], ""),
        "family": _joined(["family-", pa.array(numbers // FAMILY_SIZE).cast(pa.string())], ""),
        "category": _words(draw, count, 1)[0],
        "text": text,
        "attributes": _joined(['{"title": "', text, '", "colour": "', *_words(draw, count, FEW_WORDS), '"}'], ""),
        "facts": _joined(['{"pattern": "', *_words(draw, count, 1), '"}'], ""),
        "image": pa.repeat(pa.scalar(_picture(), pa.binary()), count),
        "image_sha256": hashes,
        "image_hash": pc.utf8_slice_codeunits(hashes, 0, 16),
        "image_width": width,
        "image_height": np.full(count, 300, dtype=np.int32),
        "image_brightness": draw.uniform(0.3, 0.9, count).astype(np.float32),
        "image_contrast": draw.uniform(0.1, 0.4, count).astype(np.float32),
    }
    return pa.table(columns).cast(ITEM_SCHEMA)


def _lines(ids: Any, start: int, shard: str) -> Any:
    count = len(ids)
    columns = {
        "source": pa.repeat(SOURCE, count),
        "row": np.arange(start + 1, start + 1 + count),
        "id": ids,
        "shard": pa.repeat(shard, count),
        "position": np.arange(count),
        "reason": pa.nulls(count, pa.string()),
    }
    return pa.table(columns).cast(ROW_LOG_SCHEMA)


def _words(draw: np.random.Generator, count: int, columns: int) -> list[Any]:
    words = pa.array(WORDS)
    return [words.take(pa.array(draw.integers(0, len(WORDS), count))) for _ in range(columns)]


def _joined(parts: list[Any], separator: str) -> Any:
    return pc.binary_join_element_wise(*parts, separator)


def _picture() -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "red").save(target, "JPEG", qtables=[[1] * 64], optimize=True)  # one table: shorter
    return target.getvalue()


if __name__ == "__main__":
    main()

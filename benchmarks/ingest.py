"""How fast is `mlim ingest`, beside a bare Pillow loop, and what do more items cost?

    python benchmarks/ingest.py speed --images FOLDER        images/s at 384 x 384 against the floor, in turns
    python benchmarks/ingest.py scale --rows 10000,100000,1000000   small pictures: seconds and memory by size

The floor decodes, resizes and encodes each picture in one process per core and does nothing else: no table, no hash,
no shards. Whatever ingest does beyond that is overhead.
"""

import argparse
import csv
import io
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from measure import GIBIBYTE, cores, heading, median_ratio, run_timed, run_watched, table
from PIL import Image

from mlim.recipe import load_recipe

MILLION = 1_000_000
PACKAGES = ("mlim", "pillow", "opencv-python-headless", "dask", "pebble", "pyarrow")
SIDE, QUALITY = 384, 95
FLOOR_CHUNK = 32
SMALL_SIDE = 64  # of the pictures that `scale` makes and of what they become
DISTINCT_PICTURES = 2000
ITEMS_PER_FAMILY = 4
COLOURS = 12
WHOLE = "mlim ingest, start to end"
STEADY = "mlim ingest without its start (a run over a handful of rows, in the same round)"

INGEST = """
if __name__ == "__main__":  # as the `mlim` command, whose main module its decoding processes find light
    import sys
    from pathlib import Path
    from mlim.console import Terminal
    from mlim.recipe import load_recipe
    from mlim.steps.ingest import ingest
    from mlim.workspace import Workspace
    ingest(load_recipe(sys.argv[1]), Path(sys.argv[2]), Workspace(Path(sys.argv[3])), Terminal(quiet=True))
"""


def bare(path: str) -> int:
    """What no ingest can avoid; the length is returned so that nothing large travels between processes."""
    with Image.open(path) as picture:
        square = picture.convert("RGB").resize((SIDE, SIDE))
    target = io.BytesIO()
    square.save(target, "JPEG", quality=QUALITY)
    return len(target.getvalue())


def floor(paths: list[str]) -> float:
    """Seconds of the bare loop; the processes have started before the clock does."""
    with multiprocessing.get_context("fork").Pool(cores()) as pool:
        pool.map(bare, paths[: FLOOR_CHUNK * cores()], chunksize=FLOOR_CHUNK)
        started = time.perf_counter()
        for _ in pool.imap_unordered(bare, paths, chunksize=FLOOR_CHUNK):
            pass
        return time.perf_counter() - started


def write_catalog(folder: Path, pictures: list[str], images: Path, rows: int) -> Path:
    """A table of `rows` items over these pictures, in turn."""
    with (folder / "catalog.csv").open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["id", "picture", "product", "title", "colour"])
        for number, picture in zip(range(rows), itertools.cycle(pictures)):
            product = f"product-{number // ITEMS_PER_FAMILY}"
            texts = (f"thing {number} of many", f"colour {number % COLOURS}")
            writer.writerow([f"item-{number:08d}", picture, product, *texts])
    description = {
        "source": "table",
        "table": "catalog.csv",
        "images": str(images),
        "columns": {"id": "id", "image": "picture", "family": "product", "text": ["title"]},
        "pairs": {"decided_by": ["colour"]},
    }
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(description), encoding="utf-8")
    return path


def write_recipe(folder: Path, name: str, side: int) -> Path:
    """The named recipe with pictures of another side; only the sections that ingest reads matter."""
    recipe = load_recipe(name)
    image = recipe.image.model_copy(update={"size": side, "jpeg_quality": QUALITY})
    path = folder / "recipe.yaml"
    path.write_text(recipe.model_copy(update={"image": image}).to_yaml(), encoding="utf-8")
    return path


def ingest_command(folder: Path, recipe: Path, catalog: Path, work: str) -> list[str]:
    """One whole run in a process of its own, start-up included."""
    script = folder / "run.py"
    script.write_text(INGEST, encoding="utf-8")
    return [sys.executable, str(script), str(recipe), str(catalog), str(folder / work)]


def speed(options: argparse.Namespace) -> None:
    """Images/s of the floor and of ingest, in turns."""
    paths = sorted(path for path in options.images.rglob("*.jpg"))[: options.limit]
    names = [str(path.relative_to(options.images)) for path in paths]
    seconds: dict[str, list[float]] = {"bare Pillow loop": [], WHOLE: [], STEADY: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        catalog = write_catalog(folder, names, options.images.resolve(), len(names))
        few = folder / "few"
        few.mkdir()
        handful = write_catalog(few, names, options.images.resolve(), 2 * ITEMS_PER_FAMILY)
        recipe = write_recipe(folder, "paper", SIDE)
        for turn in range(options.rounds):
            seconds["bare Pillow loop"].append(floor([str(path) for path in paths]))
            start = run_timed(ingest_command(folder, recipe, handful, f"few-{turn}"))
            seconds[WHOLE].append(run_timed(ingest_command(folder, recipe, catalog, f"work-{turn}")))
            seconds[STEADY].append(seconds[WHOLE][-1] - start)
        memory = run_watched(ingest_command(folder, recipe, catalog, "work-watched")).together
    print(heading(PACKAGES))
    print(f"{len(paths)} pictures to {SIDE} x {SIDE}, JPEG {QUALITY}, {options.rounds} rounds in turn, medians;")
    print(f"peak memory of all processes of ingest: {memory / GIBIBYTE:.2f} GiB\n")
    print(rates(len(paths), seconds, "ratio"))


def rates(pictures: int, seconds: dict[str, list[float]], ratio: str) -> str:
    """Images/s of every way to do the same work, and how it compares to the first."""
    base = next(iter(seconds.values()))
    rows = [
        [name, f"{pictures / statistics.median(taken):.0f}", f"{median_ratio(base, taken):.2f}"]
        for name, taken in seconds.items()
    ]
    return table(["", "images/s", ratio], rows)


def scale(options: argparse.Namespace) -> None:
    """Seconds and memory for catalogs of several sizes, with small pictures."""
    rows = list[list[str]]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = folder / "images"
        images.mkdir()
        names = draw_small(images)
        recipe = write_recipe(folder, "demo", SMALL_SIDE)
        for count in options.rows:
            catalog = write_catalog(folder, names, images, count)
            done = run_watched(ingest_command(folder, recipe, catalog, f"work-{count}"))
            rates = (count / done.seconds, done.seconds / count * MILLION)
            memory = (done.largest / GIBIBYTE, done.together / GIBIBYTE)
            figures = [*(f"{rate:.0f}" for rate in rates), *(f"{size:.2f}" for size in memory)]
            rows.append([f"{count:,}", f"{done.seconds:.1f}", *figures])
    print(heading(PACKAGES))
    print(f"{DISTINCT_PICTURES} distinct pictures of {SMALL_SIDE} x {SMALL_SIDE} in turn, one row each\n")
    columns = ["rows", "seconds", "rows/s", "seconds per million", "peak GiB, largest process", "peak GiB, all"]
    print(table(columns, rows))


def draw_small(images: Path) -> list[str]:
    """Cheap distinct pictures with large shapes."""
    generator = np.random.default_rng(0)
    names = [f"{number:04d}.jpg" for number in range(DISTINCT_PICTURES)]
    for name in names:
        coarse = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        coarse.resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BICUBIC).save(images / name, quality=QUALITY)
    return names


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("speed", help="against the floor")
    one.add_argument("--images", type=Path, required=True, help="a folder of JPEGs")
    one.add_argument("--limit", type=int, default=None, help="only the first so many")
    one.add_argument("--rounds", type=int, default=3)
    one.set_defaults(run=speed)
    other = commands.add_parser("scale", help="10 thousand to a million rows")
    other.add_argument("--rows", type=lambda text: [int(part) for part in text.split(",")], default=[10_000, 100_000])
    other.set_defaults(run=scale)
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.run(options)


if __name__ == "__main__":
    main()

"""`mlim ingest` beside img2dataset on the same pictures, in turns.

    python benchmarks/ingest_vs_img2dataset.py --images FOLDER --img2dataset PYTHON

img2dataset reads addresses, so a server on loopback serves the folder to it, and to ingest as well; ingest also reads
the folder as it is. `PYTHON` is the interpreter of an environment that has img2dataset. Both decode, resize
to 384 x 384 and encode as JPEG 95; img2dataset writes WebDataset tars, ingest its shards, row log and quarantine.
img2dataset runs twice: as it comes (it enlarges with Lanczos) and with the linear kernel that ingest uses.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from ingest import QUALITY, SIDE, floor, ingest_command, rates, write_catalog, write_recipe
from measure import cores, heading, run_timed

PACKAGES = ("mlim", "pillow", "opencv-python-headless", "dask", "pebble", "aiohttp")
THREADS = 32
KERNELS = {"img2dataset": "lanczos", "img2dataset, linear": "linear"}
ADDRESSES, FOLDER, FLOOR = "ingest, addresses", "ingest, folder", "bare Pillow loop, folder"
SERVER = """
import asyncio, sys
from aiohttp import web
async def serve():
    app = web.Application()
    app.router.add_static("/", sys.argv[1])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
asyncio.run(serve())
"""
IMG2DATASET = """
import sys
from img2dataset import download
if __name__ == "__main__":
    download(url_list=sys.argv[1], output_folder=sys.argv[2], processes_count=int(sys.argv[3]),
             thread_count=int(sys.argv[4]), image_size=int(sys.argv[5]), encode_quality=int(sys.argv[6]),
             resize_mode="border", resize_only_if_bigger=False, upscale_interpolation=sys.argv[7],
             input_format="txt", output_format="webdataset", number_sample_per_shard=500, retries=0)
"""


@contextmanager
def served(images: Path) -> Iterator[str]:
    """The address of a server of the folder, on loopback, in a process of its own."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(images)], stdout=subprocess.PIPE, text=True)
    try:
        port = (server.stdout.readline() if server.stdout else "").strip()  # bound before it is told
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def run_img2dataset(python: Path, addresses: Path, out: Path, kernel: str) -> float:
    """One whole run, start-up included."""
    script = addresses.with_name("img2dataset_run.py")
    script.write_text(IMG2DATASET, encoding="utf-8")
    options = [cores(), THREADS, SIDE, QUALITY, kernel]
    return run_timed([str(python), str(script), str(addresses), str(out), *map(str, options)])


def of_addresses(catalog: Path, address: str) -> Path:
    """The catalog with addresses instead of paths."""
    with (catalog.parent / "catalog.csv").open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    with (catalog.parent / "addresses.csv").open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, rows[0])
        writer.writeheader()
        writer.writerows({**row, "picture": f"{address}/{row['picture']}"} for row in rows)
    description = yaml.safe_load(catalog.read_text(encoding="utf-8"))
    description |= {"table": "addresses.csv", "download": {"allow_private": True, "per_host": THREADS}}
    del description["images"]
    path = catalog.with_name("addresses.yaml")
    path.write_text(yaml.safe_dump(description), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--img2dataset", type=Path, required=True, help="a Python that has it installed")
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = [path.name for path in sorted(options.images.glob("*.jpg"))[: options.limit]]
    seconds: dict[str, list[float]] = {name: [] for name in (*KERNELS, ADDRESSES, FOLDER, FLOOR)}
    with tempfile.TemporaryDirectory() as temporary, served(options.images) as address:
        folder = Path(temporary)
        (folder / "addresses.txt").write_text("\n".join(f"{address}/{name}" for name in names), encoding="utf-8")
        recipe = write_recipe(folder, "paper", SIDE)
        catalog = write_catalog(folder, names, options.images.resolve(), len(names))
        web = of_addresses(catalog, address)
        for turn in range(options.rounds):
            for name, kernel in KERNELS.items():
                tars = folder / f"{kernel}-{turn}"
                seconds[name].append(run_img2dataset(options.img2dataset, folder / "addresses.txt", tars, kernel))
            seconds[ADDRESSES].append(run_timed(ingest_command(folder, recipe, web, f"web-{turn}")))
            seconds[FOLDER].append(run_timed(ingest_command(folder, recipe, catalog, f"folder-{turn}")))
            seconds[FLOOR].append(floor([str(options.images / name) for name in names]))
    print(heading(PACKAGES))
    print(f"{len(names)} pictures to {SIDE} x {SIDE}, start to end, {options.rounds} rounds in turn, medians\n")
    print(rates(len(names), seconds, "x img2dataset"))


if __name__ == "__main__":
    main()

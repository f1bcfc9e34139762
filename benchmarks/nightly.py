"""What does a night cost when 1 % of a catalog is new? `mlim match --since` beside a full run of the same catalog.

    python benchmarks/nightly.py --model build/demo [--items 100000] [--share 0.01] [--scattered] [--folder DIR]

The catalog is drawn (`mlim catalog synthesize`), or is the beginning of one that was drawn before (`--catalog`). The
work folder of the nightly run has matched it without the new items before; the full run begins with an empty work
folder, beside the earlier match. Both ingest, validate, find candidates, score, group and write tables and page, in
processes of their own, and the parts are timed: seconds of cores, of all processes, which other work on the machine
hardly changes. New items stand at the end of the table; with `--scattered` they stand anywhere, so that more shards are
made anew. The groups of both runs are compared: they may differ where texts are read by an encoder that has learned
from 1 % fewer items, which is counted.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from measure import heading, table

PACKAGES = ("mlim", "torch", "faiss-cpu")
PARTS = {
    "prepare_items": "ingest, validate",
    "digests_of_items": "compare items",
    "compare_with": "compare items",
    "find_candidates": "candidates",
    "_score": "scores",
    "group_items": "groups",
    "_write_tables": "tables",
    "_write_page": "page",
}
FULL, BASE, NIGHT = "full", "base", "night"


def draw(folder: Path, options: argparse.Namespace) -> list[dict[str, str]]:
    """Draw the catalog, or begin the one that was drawn before; returns the rows of its table."""
    if options.catalog:
        describe(folder, options.catalog)
        with (options.catalog / "catalog.csv").open(encoding="utf-8", newline="") as source:
            return first_families(list(csv.DictReader(source)), options.items)
    words = ["catalog", "synthesize", "--out", str(folder), "--items", str(options.items), "--no-broken"]
    subprocess.run([sys.executable, "-m", "mlim", *words, "--image-size", str(options.image_size)], check=True)
    with (folder / "catalog.csv").open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))


def describe(folder: Path, drawn: Path) -> None:
    """A folder with the description and the pictures of a catalog that was drawn."""
    folder.mkdir()
    (folder / "images").symlink_to((drawn / "images").resolve())
    shutil.copyfile(drawn / "catalog.yaml", folder / "catalog.yaml")


def first_families(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """The first `count` rows of whole families, in the order of the table: a catalog as it would have been drawn."""
    sizes = Counter(row["family"] for row in rows)
    kept, left = set[str](), count
    for row in rows:
        if row["family"] not in kept and left > 0:
            kept.add(row["family"])
            left -= sizes[row["family"]]
    return [row for row in rows if row["family"] in kept][:count]


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "catalog.csv").open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def core_seconds() -> float:
    """What this process has computed, with those that it started and those that they waited for (decoders)."""
    here, used = psutil.Process(), 0.0
    for process in (here, *here.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


def timed(spent: dict[str, float], name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose core-seconds are added to its part."""

    def wrapper(*args: Any, **named: Any) -> Any:
        started = core_seconds()
        try:
            return run(*args, **named)
        finally:
            spent[name] += core_seconds() - started

    return wrapper


def measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run in this process, prepared as `mlim match` is: core-seconds of its parts and in all, and its summary."""
    from mlim.processes import prepare_for_libraries

    prepare_for_libraries()
    import mlim
    from mlim.steps import match as step

    spent: dict[str, float] = defaultdict(float)
    for function, part in PARTS.items():
        setattr(step, function, timed(spent, part, getattr(step, function)))
    folder, model = options.folder, mlim.load(options.model)
    used = core_seconds()
    summary = model.match(
        folder / ("catalog-full" if kind == FULL else "catalog") / "catalog.yaml",
        folder / kind,
        work=folder / ("work-full" if kind == FULL else "work-night"),
        recipe=options.recipe,
        since=folder / BASE if kind == NIGHT else None,
        workers=options.workers,
    )
    return {"parts": spent, "all": core_seconds() - used, "summary": summary, "model": describe_model(model)}


def describe_model(model: Any) -> str:
    """What scores pairs, and which pairs it has seen."""
    modality, count = model.settings.modality, sum(weight.numel() for weight in model.network.parameters())
    how = (
        "an item by itself (read-out separate)" if model.reads_items_alone else "both items of a pair (read-out joint)"
    )
    network = f"a network of {count:,} weights that reads {how}" if model.uses_network(modality) else "no network"
    scorer = f"a stack with {network}" if model.uses_stack(modality) else f"{network}, without a stack"
    seen = "also across" if model.settings.trained_across_families else "inside"
    return f"{scorer}; trained on mismatches {seen} families; SHA-256 {model.sha256[:12]}"


def run(kind: str, folder: Path) -> dict[str, Any]:
    """The same in a process of its own; what an earlier call measured in this folder is taken from there.

    Processes that decode import the main module of theirs again, which for `mlim match` is light. This one is heavy, so
    it is imported by a command line that has no main module.
    """
    kept = folder / f"{kind}.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import nightly; nightly.main()"
    command = [sys.executable, "-c", start, *sys.argv[1:], "--folder", str(folder), "--here", kind]
    print(f"{kind} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, start_new_session=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    kept.write_text(json.dumps(result), encoding="utf-8")
    return result


def differently_grouped(folder: Path) -> int:
    """How many items are in a group of other members in the two runs."""
    sets = []
    for kind in (FULL, NIGHT):
        groups = pd.read_parquet(folder / kind / "groups.parquet")
        sets.append({item: frozenset(items) for _, items in groups.groupby("group")["item"] for item in items})
    return sum(sets[0][item] != sets[1].get(item) for item in sets[0])


def show(full: dict[str, Any], night: dict[str, Any], different: int) -> None:
    rows = []
    for part in (*dict.fromkeys(PARTS.values()), "all"):
        one, other = (found.get(part, found["parts"].get(part, 0.0)) for found in (full, night))
        rows.append([part, f"{one:,.1f}", f"{other:,.1f}", f"{other / max(one, 1e-9):.1%}"])
    print(heading(PACKAGES))
    print(table(["core-seconds of", "full run", "since the last", "share"], rows))
    summary = night["summary"]
    scored = summary["scored"] - summary["since"]["scores_kept"]
    print(
        f"\nModel: {night['model']}. "
        f"{summary['items']:,} items, {summary['since']['items']['new']:,} of them new; {scored:,} of "
        f"{summary['scored']:,} pairs were scored ({scored / max(summary['scored'], 1):.1%}); {different:,} items have "
        "other items in their group than in the full run"
    )


def compare(folder: Path, options: argparse.Namespace) -> None:
    if not (folder / "catalog-full").is_dir():
        lay_out(folder, options)
    with ThreadPoolExecutor(2) as pool:
        _, full = pool.map(lambda kind: run(kind, folder), (BASE, FULL))
    shutil.copyfile(folder / "catalog-full" / "catalog.csv", folder / "catalog" / "catalog.csv")
    show(full, run(NIGHT, folder), differently_grouped(folder))


def lay_out(folder: Path, options: argparse.Namespace) -> None:
    """The catalog of the earlier match, and that of the full run, which is that of the night too."""
    (folder / ".mlim-folder").touch()
    rows = draw(folder / "catalog", options)
    count = max(round(options.share * len(rows)), 1)
    new = np.random.default_rng(0).choice(len(rows), count, replace=False) if options.scattered else []
    new = set(map(int, new)) or set(range(len(rows) - count, len(rows)))
    write_rows(folder / "catalog", [row for number, row in enumerate(rows) if number not in new])
    describe(folder / "catalog-full", folder / "catalog")
    write_rows(folder / "catalog-full", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a registered version, a work folder or a saved model")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--catalog", type=Path, help="the folder of a catalog of at least so many items; default: draw")
    parser.add_argument("--share", type=float, default=0.01, help="of the items that are new")
    parser.add_argument("--scattered", action="store_true", help="new items stand anywhere in the table")
    parser.add_argument("--image-size", type=int, default=128, help="pixels")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--workers", type=int, help="processes that score; default: one for each core")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where everything goes and stays, so that the same command goes on; default: a temporary folder",
    )
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.here, options)))
        return
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        compare(options.folder, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options)


if __name__ == "__main__":
    main()

"""What a training spends on other things than training: waiting for data, checkpoints, starting up, other processes.

    python benchmarks/overheads.py --work FOLDER [--recipe small]

`FOLDER` is a work folder in which `mlim pairs` has run with that recipe. Each figure comes from `mlim pretrain` itself.
"""

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from measure import heading, table

from mlim.console import Terminal
from mlim.models.config import MlimConfig
from mlim.models.mlim import Mlim
from mlim.models.weights import named_tensors
from mlim.recipe import Recipe, load_recipe
from mlim.training.checkpoint import BackgroundSaver, Checkpoints, Snapshot
from mlim.workspace import Workspace

PACKAGES = ("mlim", "torch")
STEPS = 200
WARM = 50  # steps that are not counted: caches fill, memory is mapped
CHECKPOINT_SECONDS = 600  # between two checkpoints
INPUTS = ("items", "valid", "pairs")


def pretrain(source: Path, recipe: str, processes: int, threads: int, *settings: str) -> tuple[float, list[dict]]:
    """Wall seconds of one pre-training in a fresh copy of the work folder, and the readings of its history."""
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace(Path(temporary) / "work")
        for name in INPUTS:
            shutil.copytree(source / name, workspace.root / name)
        chosen = load_recipe(recipe)
        words = [f"tracking.uri=sqlite:///{temporary}/mlflow.db", f"compute.processes={processes}", *settings]
        sets = [word for setting in words for word in ("--set", setting)]
        command = [sys.executable, "-m", "mlim", "pretrain", "--quiet", "--recipe", recipe, "--work", workspace.root]
        started = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run([*map(str, command), *sets], env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(done.stderr)
        name, seed = chosen.main_variant.pretraining, chosen.seeds[0]
        with (workspace.pretrained(str(name), seed) / "history.csv").open(encoding="utf-8", newline="") as file:
            return seconds, [row for row in csv.DictReader(file) if row["kind"] == "train" and int(row["step"]) > WARM]


def checkpoint(name: str) -> tuple[float, float]:
    """Seconds that the training waits for a checkpoint of a recipe's network with moments, and until it is written."""
    recipe = load_recipe(name, ["model.start=random"])
    model = Mlim.random(MlimConfig.from_recipe(recipe, recipe.text.vocabulary_size), seed=0)
    moments = {f"{name}.{key}": torch.zeros_like(value) for name, value in named_tensors(model).items() for key in "mv"}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as temporary:  # a disk, not a memory file system
        saver = BackgroundSaver(Checkpoints(Path(temporary), "benchmark", 1, Terminal(quiet=True)))
        started = time.perf_counter()
        saver.save(Snapshot(1, {"model": named_tensors(model), "optimizer": moments}, {}))
        blocked = time.perf_counter() - started
        saver.wait()
        written = time.perf_counter() - started
        saver.close()
    return blocked, written


def median(rows: list[dict], figure: str) -> float:
    """Over the readings, each of which is in several rows, one for each masking mode."""
    return statistics.median(float(row[figure]) for row in {row["step"]: row for row in rows}.values())


def epoch_of(work: Path, batch_size: int) -> int:
    """Steps until every training item has been shown once."""
    splits = pq.read_table(Workspace(work).pairs / "items.parquet", columns=["split"])["split"].to_pylist()
    return -(-splits.count("train") // batch_size)


def settings(recipe: Recipe, steps: int, batch_size: int) -> list[str]:
    """A short training that never validates before its end."""
    often = f"{{every_steps: {steps}, every_minutes: 1000, keep: 1}}"
    return [
        f"pretrain.steps={steps}",
        f"pretrain.batch_size={batch_size}",
        f"pretrain.validate_every={steps}",
        f"pretrain.checkpoint={often}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a work folder as `mlim pairs` leaves it")
    parser.add_argument("--recipe", default="small")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    size = recipe.pretrain.batch_size
    threads = len(os.sched_getaffinity(0))
    first, _ = pretrain(options.work, options.recipe, 1, threads, *settings(recipe, 1, size))
    epoch = epoch_of(options.work, size)
    _, whole = pretrain(options.work, options.recipe, 1, threads, *settings(recipe, 2 * epoch, size))
    early, late = ([row for row in whole if (int(row["step"]) > epoch) is later] for later in (False, True))
    _, alone = pretrain(options.work, options.recipe, 1, 1, *settings(recipe, STEPS, size))
    _, together = pretrain(options.work, options.recipe, 2, 1, *settings(recipe, STEPS, 2 * size))
    rate = "samples_per_second"
    waits = {name: checkpoint(name) for name in (options.recipe, "paper")}
    print(heading(PACKAGES))
    rows = [
        ["waiting for data, first epoch, share of the time", f"{median(early, 'data_wait_share'):.2%}"],
        ["waiting for data, second epoch (`loader.image_cache_mb`)", f"{median(late, 'data_wait_share'):.2%}"],
        ["one step from nothing, validated and saved, whole command", f"{first:.1f} s"],
        [f"one process, {threads} threads, batch {size}", f"{median(whole, rate):.1f} samples/s"],
        [f"one process, one thread, batch {size}", f"{median(alone, rate):.1f} samples/s"],
        [f"two processes, one thread each, batch {2 * size}", f"{median(together, rate):.1f} samples/s"],
        ["weak scaling from one to two processes", f"{median(together, rate) / median(alone, rate) / 2:.0%}"],
    ]
    for name, (blocked, written) in waits.items():
        share = blocked / CHECKPOINT_SECONDS
        rows.append([f"a checkpoint of `{name}`: the training waits", f"{blocked:.2f} s ({share:.2%} of ten minutes)"])
        rows.append([f"a checkpoint of `{name}`: written after", f"{written:.1f} s"])
    print(table([f"recipe {options.recipe}", ""], rows))


if __name__ == "__main__":
    main()

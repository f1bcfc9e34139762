"""What a stage costs before it does anything: in a process of its own, and in a fork of one with loaded libraries.

    python benchmarks/stage_start.py [--rounds 5]

Loads the command line and the step of a stage, as `mlim STAGE` does, in turn in both ways. Loading the libraries into
the process that forks is shown too: a flow does it once, on a core that is free.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
from measure import heading, table

from mlim.forked import ForkServer

PACKAGES = ("mlim", "torch", "mlflow", "scikit-learn")
MEBIBYTE = 2**20
STAGES = ("ingest", "pairs", "pretrain", "finetune", "stack", "evaluate", "register", "report")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}


def load() -> None:
    """The program that is measured: load a stage, print the core-seconds that this process has used."""
    importlib.import_module("mlim.cli.main")
    importlib.import_module(f"mlim.steps.{sys.argv[1]}")
    print(sum(os.times()[:2]))


def start(stage: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """Wall seconds and core-seconds until a stage is loaded."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "mlim.forked", "stage_start:load", stage]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    began = time.perf_counter()
    with ForkServer(ENVIRONMENT) as server:
        while not server.is_ready():
            time.sleep(0.01)
        ready = time.perf_counter() - began
        memory = psutil.Process(server.process).memory_info().rss / MEBIBYTE
        ways = (ENVIRONMENT, {**ENVIRONMENT, **server.variables})
        found = {stage: [[start(stage, way) for way in ways] for _ in rounds] for stage in STAGES}
    print(heading(PACKAGES))
    rows = []
    for stage, times in found.items():
        (alone, cores), (forked, cores_forked) = [
            [statistics.median(each[way][unit] for each in times) for unit in range(2)] for way in range(2)
        ]
        rows.append([stage, *(f"{value:.1f}" for value in (alone, forked, alone / forked, cores, cores_forked))])
    columns = ["stage", "alone, s", "forked, s", "times faster", "alone, core-seconds", "forked, core-seconds"]
    print(table(columns, rows))
    print(
        f"\nMedians of {len(rounds)} rounds. The libraries are loaded once in {ready:.1f} s and take {memory:.0f} MiB."
    )


if __name__ == "__main__":
    main()

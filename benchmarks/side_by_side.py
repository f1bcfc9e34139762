"""Do trainings get further side by side, with one thread each, or one after the other, with a thread for each core?

    python benchmarks/side_by_side.py [--rounds 3] [--seconds 6]

Pre-training steps of networks of growing size (recipes, and the recipe small wider and deeper), on as many processes as
there are cores with one thread each, and in one process with all of them. Every process warms up first, then all begin
at once. Both ways take turns; medians. Memory is the largest resident set of one process.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from measure import cores, heading, median_ratio, table

from mlim.processes import FEW_SPINS, SPINS, THREADS

PACKAGES = ("mlim", "torch")
WARM: Final = 2  # steps that are not counted
READY: Final = "ready"
NETWORKS: Final = {
    "demo": ("demo", ()),
    "small": ("small", ()),
    "systems": ("systems", ()),
    "small, width 384, 6 blocks": (
        "small",
        ("model.hidden_size=384", "model.layers=6", "model.heads=6", "model.intermediate_size=1536"),
    ),
    "small, width 768, 12 blocks": (
        "small",
        ("model.hidden_size=768", "model.layers=12", "model.heads=12", "model.intermediate_size=3072"),
    ),
}


class Pace(NamedTuple):
    """Samples per second of one process, and its largest resident set in MiB."""

    rate: float
    memory: float


def step_for(network: str, seconds: float) -> Pace:
    """Train in this process, whose parent says when to begin."""
    import torch
    from engine_works import Setting, ours

    from mlim.recipe import load_recipe

    name, settings = NETWORKS[network]
    recipe = load_recipe(name, settings)
    longest, batch = recipe.text.limit, recipe.pretrain.batch_size
    work = ours("step", Setting(recipe, torch.device("cpu"), batch, longest, longest))
    for number in range(WARM):
        work.step(number)
    print(READY, flush=True)
    input()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        work.step(WARM + steps)
        steps += 1
    rate = steps * batch / (time.perf_counter() - started)
    return Pace(rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def together(network: str, processes: int, threads: int, seconds: float) -> Pace:
    """The samples per second of so many processes, and the memory of the largest."""
    command = [sys.executable, __file__, "--seconds", str(seconds), "--here", network]
    environment = {**os.environ, THREADS: str(threads), SPINS: FEW_SPINS}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    started = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    for process in started:
        if process.stdout.readline().strip() != READY:
            raise SystemExit(f"{network}: a process did not start")
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    paces = [Pace(*map(float, process.communicate()[0].split())) for process in started]
    return Pace(sum(pace.rate for pace in paces), max(pace.memory for pace in paces))


def compare(network: str, rounds: int, seconds: float) -> Sequence[str]:
    """A row of the table."""
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(together(network, 1, cores(), seconds))
        beside.append(together(network, cores(), 1, seconds))
    rates = [[pace.rate for pace in paces] for paces in (alone, beside)]
    memory = max(pace.memory for pace in (*alone, *beside))
    told = [f"{statistics.median(each):.0f}" for each in rates]
    return [network, *told, f"{median_ratio(rates[1], rates[0]):.2f}", f"{memory:,.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(*step_for(options.here, options.seconds))
        return
    rows = [compare(network, options.rounds, options.seconds) for network in NETWORKS]
    print(heading(PACKAGES))
    print(f"{options.rounds} rounds in turn, medians, samples/s of all processes\n")
    columns = ["network", f"one process, {cores()} threads", f"{cores()} processes, one thread each", "ratio", "MiB"]
    print(table(columns, rows))


if __name__ == "__main__":
    main()

"""What does a training step cost while another program keeps a core busy, for each way in which threads may wait?

    python benchmarks/neighbours.py [--recipe small] [--rounds 3] [--seconds 5]

A neighbour is a loop that does nothing, in a session of its own, as another person's program is. Every measurement is a
process of its own, as libgomp reads how to wait when it is loaded; ways take turns; medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from measure import cores, heading, median_ratio, table

from mlim.processes import FEW_SPINS, SPINS

PACKAGES = ("mlim", "torch")
WAYS = {"libgomp's default": "300000", "as mlim sets it": FEW_SPINS}  # the default as libgomp's manual gives it
COUNTS = (0, 1)  # of neighbours; with one on each of two cores, minutes were not enough for the default
WARM = 1  # step that is not counted


def time_steps(recipe: str, seconds: float) -> float:
    """Median seconds of a step of a recipe on the CPU, over the steps that begin in so many seconds (at least one)."""
    import torch
    from engine_works import Setting, ours

    from mlim.recipe import load_recipe

    chosen = load_recipe(recipe)
    longest = chosen.text.limit
    work = ours("step", Setting(chosen, torch.device("cpu"), chosen.pretrain.batch_size, longest, longest))
    spent: list[float] = []
    end = time.perf_counter() + seconds
    while len(spent) <= WARM or time.perf_counter() < end:
        started = time.perf_counter()
        work.step(len(spent))
        spent.append(time.perf_counter() - started)
    return statistics.median(spent[WARM:])


def measure(recipe: str, seconds: float, spins: str) -> float:
    """The same in a process of its own whose threads spin so often."""
    command = [sys.executable, __file__, "--recipe", recipe, "--seconds", str(seconds), "--here"]
    done = subprocess.run(command, env={**os.environ, SPINS: spins}, check=True, capture_output=True, text=True)
    return float(done.stdout)


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many busy programs beside the block."""
    loop = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(loop, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(time_steps(options.recipe, options.seconds))
        return
    rows = []
    for count in COUNTS:
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        with neighbours(count):
            for _ in range(options.rounds):
                for way, spins in WAYS.items():
                    found[way].append(measure(options.recipe, options.seconds, spins))
        default, ours = found.values()
        told = [f"{1e3 * statistics.median(times):,.0f}" for times in (default, ours)]
        rows.append([str(count), *told, f"{median_ratio(default, ours):.1f}"])
    print(heading(PACKAGES))
    print(f"recipe {options.recipe}, {cores()} threads, {options.rounds} rounds in turn, medians, ms per step\n")
    print(table(["busy neighbours", *WAYS, "times faster"], rows))


if __name__ == "__main__":
    main()

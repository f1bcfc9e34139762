"""How low do the losses of pre-trainings get on held-out items, beside what needs no network?

    python benchmarks/pretraining_losses.py WORK [WORK ...]

Reads what `mlim pretrain` found at the end of every pre-training of these work folders (`pretrain/*/summary.json`):
mean and standard deviation over seeds, and the references that it reports for each loss. Folders whose pre-trainings
have one name and as many steps count as one, unless `--apart` names each.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from measure import table

from mlim.files import read_json

Summary = Mapping[str, Any]


def groups(works: list[Path], apart: bool) -> dict[tuple[str, int], list[Summary]]:
    """The summaries of all seeds, by pre-training, with `apart` also by folder, and number of steps."""
    found = defaultdict[tuple[str, int], list[Summary]](list)
    for work in works:
        for path in sorted(work.glob("pretrain/*/summary.json")):
            summary = read_json(path)
            name = f"{work.name}: {summary['name']}" if apart else summary["name"]
            found[name, summary["steps"]].append(summary)
    return dict(sorted(found.items(), key=lambda item: item[0][1]))


def lines(found: Mapping[tuple[str, int], list[Summary]], loss: str) -> Iterator[tuple[str, str, str]]:
    """What each pre-training reached in a loss, and what its references reach."""
    for (name, steps), summaries in found.items():
        if values := [one["final"][loss] for one in summaries if loss in one["final"]]:
            spread = f" (standard deviation {statistics.stdev(values):.3f})" if len(values) > 1 else ""
            yield f"{name}, {steps:,} steps, {len(values)} seeds", loss, f"{statistics.mean(values):.3f}{spread}"
    first = next(iter(found.values()))[0]
    for reference, by_mode in first["references"].get(loss, {}).items():
        yield reference, loss, f"{by_mode['overall']:.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", type=Path, nargs="+", metavar="WORK")
    parser.add_argument("--apart", action="store_true", help="name the folder of each")
    options = parser.parse_args()
    found = groups(options.works, options.apart)
    if not found:
        raise SystemExit("none of these folders holds the end of a pre-training; run `mlim pretrain` first")
    losses = next(iter(found.values()))[0]["losses"]
    print(
        table(
            ("pre-training, or reference", "loss", "on held-out items"),
            [row for one in losses for row in lines(found, one)],
        )
    )


if __name__ == "__main__":
    main()

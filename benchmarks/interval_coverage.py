"""How often an interval is wrong about two equally good models, by the number of independent units.

    python benchmarks/interval_coverage.py [--trials 300]

Catalogs are drawn from a known population: a family has 1 to 4 pairs, each a match with a probability of 0.3; a match
scores higher by `GAP` standard deviations, the pairs of a family share a shift in each model, and both models are drawn
alike. Units are the families of the rarer label (`JudgedPairs.units`). Printed for each number of units: the share of
95 % intervals of the difference that leave out 0 (0.05 is right), the share without any width, and the share of
intervals of the first model's PR-AUC that hold what the population reaches on test sets of this size. Below
`FEWEST_UNITS` (mlim/evaluation/resampling.py) no interval is given.
"""

import argparse
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation import resampling
from mlim.evaluation.resampling import JudgedPairs, compare_all

FAMILIES = (3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 60)
GROUPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30)  # units, up to the next one
GAP, SHIFT, MATCHES = 1.0, 0.7, 0.3
LARGEST = 4  # pairs of a family
SAMPLES, CONFIDENCE = 400, 0.95


def draw(families: int, generator: np.random.Generator) -> tuple[JudgedPairs, NDArray[np.float64]]:
    """The pairs of so many families, and scores (2, n) of two models that are equally good."""
    family = np.repeat(np.arange(families), generator.integers(1, LARGEST + 1, size=families))
    labels = (generator.random(family.size) < MATCHES).astype(np.int64)
    shift = generator.normal(0, SHIFT, (2, families))
    scores = generator.normal(0, 1, (2, family.size)) + GAP * labels + shift[:, family]
    return JudgedPairs(labels, np.column_stack([family, family])), scores


def main() -> None:
    """Print one line for each group of units."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    trials, found = parser.parse_args().trials, defaultdict(list)
    resampling.FEWEST_UNITS = 2
    for families in FAMILIES:
        generator = np.random.default_rng([1, families])
        drawn = []
        for _ in range(trials):
            pairs, scores = draw(families, generator)
            if not 0 < pairs.labels.sum() < pairs.labels.size:
                continue
            both = compare_all(pairs, {"a": scores[:1], "b": scores[1:]}, SAMPLES, CONFIDENCE, 0)
            if not both["a"].figure.why:
                drawn.append((pairs.units, both["a"].figure.interval, both["b"].minus_first))
        centre = np.mean([interval.value for _, interval, _ in drawn])
        for units, interval, minus in drawn:
            group = max(each for each in GROUPS if each <= max(units, 2))
            holds = interval.low <= centre <= interval.high
            found[group].append((minus.low > 0 or minus.high < 0, minus.low == minus.high, holds))
    for group in GROUPS:
        wrong, flat, holds = np.mean(found[group], axis=0)
        print(f"{group:3d} units: {wrong:.3f} leave out 0, {flat:.3f} have no width, {holds:.3f} hold the figure")


if __name__ == "__main__":
    main()

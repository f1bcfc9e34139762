"""Which split a component goes to."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def assign_splits(evidence: NDArray[np.bool_], shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """The split (position in `shares`) of each component, drawn with `seed`.

    `evidence` (C, 2) tells whether a component has mismatching and matching pairs. First every split gets both labels,
    as far as there are enough components; then component by component, those with like evidence one after the other
    (stratified), goes to the split that lacks most of its share of the components.
    """
    strata = _shuffled_strata(evidence, seed)
    assigned = np.full(len(evidence), -1, dtype=np.int64)
    counts = np.zeros(len(shares))
    for split in np.argsort(shares, kind="stable")[::-1]:
        chosen = _enough_for_both_labels(strata) if shares[split] > 0 else []
        assigned[chosen] = split
        counts[split] += len(chosen)
    rest = [component for stratum in strata.values() for component in reversed(stratum)]
    wanted = np.asarray(shares)
    for number, component in enumerate(rest, start=len(evidence) - len(rest) + 1):
        split = int(np.argmax(wanted * number - counts))
        assigned[component] = split
        counts[split] += 1
    return assigned


def _shuffled_strata(evidence: NDArray[np.bool_], seed: int) -> dict[tuple[bool, bool], list[int]]:
    order = np.random.default_rng(seed).permutation(len(evidence))
    strata: dict[tuple[bool, bool], list[int]] = {
        (mismatch, match): [] for mismatch in (True, False) for match in (True, False)
    }
    for component, (mismatch, match) in zip(order.tolist(), evidence[order].tolist(), strict=True):
        strata[mismatch, match].append(component)
    return strata


def _enough_for_both_labels(strata: dict[tuple[bool, bool], list[int]]) -> list[int]:
    """Take the fewest components that give one split both labels; none when there are not enough left."""
    if strata[True, True]:
        return [strata[True, True].pop()]
    single = [strata[True, False], strata[False, True]]
    return [stratum.pop() for stratum in single] if all(single) else []

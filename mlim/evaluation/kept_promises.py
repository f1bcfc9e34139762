"""How often a promised precision is kept: thresholds are promised on resampled test pairs and checked on all of them.

The test pairs stand for all there are, so that the precision at a threshold is known. Each resample draws families with
replacement, each copy a family of its own; a pair of two families comes as often as both were drawn together (Owen
2007, the pigeonhole bootstrap).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from mlim.evaluation.pr_auc import Scores
from mlim.evaluation.promise import Promise, kept_threshold
from mlim.evaluation.resampling import JudgedPairs

TARGETS: Final = (0.95, 0.98)
RESAMPLES: Final = 100
MOST_FAMILIES: Final = 1000  # of a resample: more make it slow, and promises easier to make

Places = NDArray[np.int64]


def kept_promises(
    pairs: JudgedPairs, scores: Scores, confidence: float, seed: int, targets: Sequence[float] = TARGETS
) -> list[dict[str, Any]]:
    """For each target: in how many resamples a threshold could be promised (`promised`), and it was `kept`.

    `share` is kept / promised with its exact binomial interval; None where nothing could be promised. Without families
    every pair is one of its own.
    """
    families = np.arange(len(scores))[:, None].repeat(2, axis=1) if pairs.families is None else pairs.families
    _, codes = np.unique(families, return_inverse=True)
    numbered = codes.reshape(families.shape).astype(np.int64)
    drawn = min(int(numbered.max(initial=-1)) + 1, MOST_FAMILIES)
    samples = [*_resamples(numbered, drawn, np.random.default_rng(seed))]
    told = {"resamples": RESAMPLES, "families": drawn}
    return [{"target": target, **told, **_kept(pairs, scores, samples, target, confidence)} for target in targets]


def _kept(
    pairs: JudgedPairs, scores: Scores, samples: Sequence[tuple[Places, Places]], target: float, confidence: float
) -> dict[str, Any]:
    promise, figures = Promise("precision", target, confidence), []
    for rows, families in samples:
        found = kept_threshold(JudgedPairs(pairs.labels[rows], families), scores[rows], promise)
        if found is not None and found.threshold is not None:
            figures.append(float(pairs.labels[scores >= found.threshold].mean()))
    kept = sum(figure >= target for figure in figures)
    return {"promised": len(figures), "kept": kept, "share": _share(kept, len(figures), confidence)}


def _share(kept: int, promised: int, confidence: float) -> dict[str, float] | None:
    if not promised:
        return None
    low, high = binomtest(kept, promised).proportion_ci(confidence)
    return {"value": kept / promised, "low": float(low), "high": float(high)}


def _resamples(families: Places, drawn: int, generator: np.random.Generator) -> Iterator[tuple[Places, Places]]:
    """Rows of the pairs (n,) that each resample holds, and the families (m, 2) of these copies."""
    first, second = families.T
    count = int(families.max(initial=-1)) + 1
    for _ in range(RESAMPLES if count else 0):
        times = np.bincount(generator.integers(count, size=drawn), minlength=count)
        copies = np.where(first == second, times[first], times[first] * times[second])
        rows = np.repeat(np.arange(len(families)), copies)
        nth = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
        inside, others = first[rows] == second[rows], times[second[rows]]
        copy = np.stack([np.where(inside, nth, nth // others), np.where(inside, nth, nth % others)], axis=1)
        yield rows, families[rows] * (drawn + 1) + copy

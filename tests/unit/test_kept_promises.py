"""How often a promise is kept, on test pairs that are resampled."""

import numpy as np
import pytest

from mlim.evaluation.kept_promises import RESAMPLES, _resamples, kept_promises
from mlim.evaluation.resampling import JudgedPairs


def pairs(families: int, of_each: int = 4, crossing: int = 0) -> tuple[JudgedPairs, np.ndarray]:
    """Half of the pairs match; scores tell them apart but for some."""
    generator = np.random.default_rng(1)
    inside = np.repeat(np.arange(families), of_each)[:, None].repeat(2, axis=1)
    both = np.concatenate([inside, generator.integers(families, size=(crossing, 2))])
    labels = (generator.random(len(both)) < 0.5).astype(np.int64)
    return JudgedPairs(labels, both), 3 * labels + generator.normal(size=len(both))


def test_a_promise_is_kept_in_nearly_all_resamples() -> None:
    judged, scores = pairs(120, crossing=60)
    (found,) = kept_promises(judged, scores, 0.95, seed=0, targets=[0.85])
    assert found["promised"] >= 90
    assert found["kept"] >= 0.95 * found["promised"]
    assert found["share"]["low"] <= found["kept"] / found["promised"] <= found["share"]["high"]


@pytest.mark.parametrize("count", [0, 1, 10])
def test_too_few_pairs_promise_nothing(count: int) -> None:
    judged, scores = pairs(count)
    assert [(one["promised"], one["share"]) for one in kept_promises(judged, scores, 0.95, seed=0)] == [(0, None)] * 2


def test_pairs_without_families_are_drawn_one_by_one() -> None:
    judged, scores = pairs(200, of_each=1)
    alone = kept_promises(JudgedPairs(judged.labels), scores, 0.95, seed=0, targets=[0.8])
    assert alone == kept_promises(judged, scores, 0.95, seed=0, targets=[0.8])
    assert alone[0]["promised"] > 0


def test_a_resample_holds_whole_families_and_each_copy_is_its_own() -> None:
    families = np.array([[0, 0], [0, 0], [1, 1], [0, 1]])
    samples = [*_resamples(families, 2, np.random.default_rng(0))]
    assert len(samples) == RESAMPLES
    for rows, copies in samples:
        times = np.bincount(rows, minlength=4)
        assert times[0] == times[1] == 2 - times[2]  # two families are drawn
        assert times[3] == times[0] * times[2]
        assert len(np.unique(copies[rows == 0], axis=0)) == times[0]
        assert len(np.unique(copies[rows == 3], axis=0)) == times[3]

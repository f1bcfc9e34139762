"""Thresholds with a promise: kept on other pairs as often as said, or a number of labels that would do."""

import numpy as np
import pytest
from scipy import stats

from mlim.errors import DataError, InputError
from mlim.evaluation.promise import Promise, asked_promise, design_effect, lower_bound, promised_threshold
from mlim.evaluation.resampling import JudgedPairs

RESAMPLES = 100


def draw(families: int, seed: int, together: float, hopeless: float = 0.0) -> tuple[JudgedPairs, np.ndarray]:
    """Pairs of families of one to eight pairs; `together` is how much those of a family share what misleads.

    In the share `hopeless` of the families every pair scores high, whatever its label.
    """
    generator = np.random.default_rng(seed)
    family = np.repeat(np.arange(families), generator.integers(1, 9, families))
    labels = (generator.random(family.size) < 0.5).astype(np.int64)
    shared, own = generator.normal(size=families)[family], generator.normal(size=family.size)
    scores = 2.6 * labels + np.sqrt(together) * shared + np.sqrt(1 - together) * own
    scores = np.where((generator.random(families) < hopeless)[family], 3 + own, scores)
    return JudgedPairs(labels, np.column_stack([family, family])), scores


def true_figure(figure: str, threshold: float, everything: tuple[JudgedPairs, np.ndarray]) -> float:
    (labels, _), scores = everything
    called = scores >= threshold
    return float(labels[called].mean() if figure == "precision" else called[labels == 1].mean())


@pytest.mark.parametrize(
    ("promise", "families", "together", "hopeless"),
    [
        (Promise("precision", 0.9), 250, 0.0, 0.0),
        (Promise("precision", 0.9), 250, 0.9, 0.0),
        (Promise("precision", 0.9), 500, 0.5, 0.02),
        (Promise("recall", 0.9), 250, 0.0, 0.0),
        (Promise("recall", 0.9), 250, 0.9, 0.0),
    ],
)
def test_a_promise_is_kept_in_95_of_100_resamples(
    promise: Promise, families: int, together: float, hopeless: float
) -> None:
    everything = draw(20_000, 10_000, together, hopeless)
    drawn = (draw(families, seed, together, hopeless) for seed in range(RESAMPLES))
    found = [promised_threshold(*one, promise).threshold for one in drawn]
    kept = [threshold for threshold in found if threshold is not None]
    broken = sum(true_figure(promise.figure, threshold, everything) < promise.target for threshold in kept)
    assert len(kept) >= 80
    assert broken <= 5


def test_the_threshold_calls_what_it_can() -> None:
    """Most of the way to the threshold that a person who knew everything would choose."""
    everything = draw(40_000, 10_000, 0.3)
    found = promised_threshold(*draw(2000, 1, 0.3), Promise("precision", 0.9))
    best = min(score for score in np.linspace(0, 3, 61) if true_figure("precision", score, everything) >= 0.9)
    assert found.threshold is not None
    assert true_figure("recall", found.threshold, everything) > true_figure("recall", best, everything) - 0.1
    assert found.lower >= 0.9


def test_pairs_that_are_independent_have_the_binomial_bound() -> None:
    good = np.arange(100) < 96
    assert lower_bound(good, None, 0.05) == pytest.approx(stats.beta.ppf(0.05, 96, 5))


def test_pairs_that_are_all_alike_in_a_family_count_once() -> None:
    family = np.repeat(np.arange(400), 5)
    good = np.arange(400)[family] % 4 > 0
    assert design_effect(good, np.column_stack([family, family])) == pytest.approx(5, rel=0.02)


def test_pairs_across_families_belong_to_both() -> None:
    generator = np.random.default_rng(0)
    of_family = generator.random(300) < 0.5
    families = generator.integers(300, size=(3000, 2))
    good = of_family[families[:, 0]] & of_family[families[:, 1]]
    assert design_effect(good, families) > 3


def test_errors_alone_in_their_families_are_as_good_as_independent() -> None:
    family = np.repeat(np.arange(1000), 4)
    good = (np.arange(4000) % 40) > 0
    assert design_effect(good, np.column_stack([family, family])) < 1.2


def test_too_few_labels_say_how_many_more_would_do() -> None:
    pairs = JudgedPairs(np.array([1] * 50 + [0] * 50))
    scores = np.linspace(1, 0, 100)
    found = promised_threshold(pairs, scores, Promise("precision", 0.98))
    assert found.threshold is None
    assert f"{found.needed} more pairs" in found.sentence
    size = 50 + (found.needed or 0)
    more = JudgedPairs(np.array([1] * size + [0] * 50))
    assert promised_threshold(more, np.linspace(1, 0, size + 50), Promise("precision", 0.98)).threshold is not None


def test_a_hopeless_promise_asks_for_no_labels() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=3000)
    found = promised_threshold(JudgedPairs(labels), generator.random(3000), Promise("precision", 0.98))
    assert (found.threshold, found.needed) == (None, None)
    assert "more labels alone would not do" in found.sentence


def test_recall_of_all_there_is_needs_labels_too() -> None:
    found = promised_threshold(JudgedPairs(np.array([1, 1, 0])), np.array([0.9, 0.8, 0.1]), Promise("recall", 0.9))
    assert found.threshold is None
    assert found.needed == 27  # 0.9 ** 29 < 0.05


@pytest.mark.parametrize(("labels", "scores"), [([1, 1], [0.1, 0.2]), ([1, 0], [0.1, np.nan]), ([], [])])
def test_pairs_that_tell_nothing_are_refused(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(DataError):
        promised_threshold(JudgedPairs(np.array(labels, dtype=np.int64)), np.array(scores), Promise("recall", 0.9))


def test_one_number_asks_for_a_promise_and_two_are_rejected():
    assert asked_promise(0.98, None) == Promise("precision", 0.98)
    assert asked_promise(None, 0.9) == Promise("recall", 0.9)
    assert asked_promise(None, None) is None
    with pytest.raises(InputError, match="one threshold keeps one promise"):
        asked_promise(0.98, 0.9)

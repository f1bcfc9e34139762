import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from mlim.errors import DataError
from mlim.evaluation.curves import CURVE_POINTS, pr_curve
from mlim.evaluation.pr_auc import average_precision, prevalence


@st.composite
def scored_pairs(draw, levels=8):
    """Labels of both kinds and scores on few levels, so that ties are common."""
    size = draw(st.integers(2, 40))
    labels = draw(arrays(np.int64, size, elements=st.integers(0, 1)))
    labels[draw(st.integers(0, size - 1))] ^= int(labels.min() == labels.max())
    scores = draw(arrays(np.int64, size, elements=st.integers(0, levels))) / levels
    return labels, scores


def random_pairs(size, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random(size) < 0.4).astype(np.int64)
    return labels, labels * 0.3 + generator.random(size)


@given(scored_pairs())
def test_it_is_scikit_learns_average_precision(pairs):
    labels, scores = pairs
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@given(scored_pairs())
def test_a_monotone_transformation_changes_nothing(pairs):
    labels, scores = pairs
    assert average_precision(labels, np.exp(3 * scores)) == average_precision(labels, scores)


def test_perfect_constant_and_reversed_scores():
    labels = np.array([1, 1, 0, 0, 0])
    assert average_precision(labels, np.array([0.9, 0.8, 0.3, 0.2, 0.1])) == 1
    assert average_precision(labels, np.full(5, 0.5)) == pytest.approx(prevalence(labels))
    assert average_precision(labels, -labels.astype(float)) == pytest.approx(prevalence(labels))


def test_the_curve_rises_in_recall_and_is_thinned():
    labels, scores = random_pairs(20_000)
    curve = pr_curve(labels, scores)
    assert len(curve) <= CURVE_POINTS
    assert curve.recall.is_monotonic_increasing
    assert curve.recall.iloc[0] == 0
    assert curve.recall.iloc[-1] == 1
    assert curve.precision.iloc[-1] == pytest.approx(prevalence(labels), abs=0.01)
    assert np.trapezoid(curve.precision, curve.recall) == pytest.approx(average_precision(labels, scores), abs=0.01)


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([1, 1], [0.1, 0.2], "both labels"),
        ([0, 0], [0.1, 0.2], "both labels"),
        ([0, 1], [0.1, np.nan], "not finite"),
        ([0, 1], [0.1], "do not belong together"),
        ([], [], "both labels"),
    ],
)
def test_what_has_no_pr_auc_is_refused(labels, scores, says):
    with pytest.raises(DataError, match=says):
        average_precision(np.array(labels, dtype=np.int64), np.array(scores, dtype=np.float64))

"""Divergences between histograms, profiles of data versions, and what is remembered of accepted ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import distance

from mlim.errors import InputError
from mlim.quality.acceptance import (
    Acceptance,
    Complaint,
    History,
    Version,
    history_file,
    overrule,
    read_history,
    write_history,
)
from mlim.quality.drift import chance_divergence, divergence, jensen_shannon, population_stability_index
from mlim.quality.measures import Measures
from mlim.quality.profile import MAX_CATEGORIES, OTHER_CATEGORIES, Counts, Profile, compare

counts = st.lists(st.integers(0, 1000), min_size=4, max_size=4)


@given(counts, counts)
def test_the_divergence_is_symmetric_and_between_nothing_and_one_bit(one, other):
    assert jensen_shannon(one, other) == pytest.approx(jensen_shannon(other, one))
    assert 0 <= jensen_shannon(one, other) <= 1 + 1e-12
    assert population_stability_index(one, other) >= 0


@given(counts, st.integers(1, 50))
def test_only_shares_matter_for_the_divergence(one, factor):
    assert jensen_shannon(one, [count * factor for count in one]) == pytest.approx(0, abs=1e-12)


def test_the_divergence_has_the_known_values():
    assert jensen_shannon([1, 0], [0, 1]) == 1
    # half a bit of entropy in the mixture (3/4, 1/4): 0.8113 - (0 + 1) / 2
    assert jensen_shannon([10, 0], [5, 5]) == pytest.approx(0.311278, abs=1e-6)
    assert jensen_shannon([0, 0], [5, 5]) == 0
    # (0.6 - 0.5) ln 1.2 + (0.4 - 0.5) ln 0.8, for counts so large that the half item does not show
    assert population_stability_index([5 * 10**7] * 2, [6 * 10**7, 4 * 10**7]) == pytest.approx(0.0405465, abs=1e-6)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (300, 2000), (20000, 20000)])
def test_samples_of_one_distribution_hardly_ever_exceed_chance(n, m):
    draw = np.random.default_rng(0)
    shares = draw.dirichlet(np.ones(20))
    samples = [(draw.multinomial(n, shares), draw.multinomial(m, shares)) for _ in range(400)]
    exceeded = np.mean([divergence("x", one, other).excess > 0 for one, other in samples])
    assert exceeded < 0.04
    assert all(chance_divergence(one, other) < 25 * (1 / n + 1 / m) for one, other in samples)


@pytest.mark.parametrize(("cells", "n", "m"), [(20, 4000, 4000), (5, 2000, 20000)])
def test_chance_is_the_mean_and_three_deviations_of_what_samples_of_one_distribution_show(cells, n, m):
    """Done when: the scale of `chance_divergence`, against SciPy's divergence of two thousand pairs of samples."""
    draw = np.random.default_rng(0)
    shares = np.full(cells, 1 / cells)
    ones, others = (draw.multinomial(size, shares, size=2000) for size in (n, m))
    found = distance.jensenshannon(ones, others, base=2, axis=1) ** 2
    assert chance_divergence(ones[0], others[0]) == pytest.approx(found.mean() + 3 * found.std(), rel=0.06)


def test_a_shift_is_seen_in_a_large_catalog_and_not_explained_by_chance():
    moved = divergence("x", [5000, 5000], [8000, 2000])
    assert moved.excess == pytest.approx(moved.jensen_shannon - moved.chance)
    assert moved.excess > 0.05
    assert moved.stability_index > 0.25


def measures(texts, categories=(None,), codes=None) -> Measures:
    count = len(texts)
    columns = {
        "row": np.arange(count),
        "text_characters": np.array(texts, dtype=np.int32),
        "image_brightness": np.full(count, 0.5, dtype=np.float32),
        "image_contrast": np.full(count, 0.2, dtype=np.float32),
        "image_width": np.full(count, 30, dtype=np.int32),
        "image_height": np.full(count, 60, dtype=np.int32),
        "category": np.zeros(count, dtype=np.int32) if codes is None else np.array(codes, dtype=np.int32),
    }
    return Measures(columns, categories, ("a.csv",))


def profile(texts, *categories) -> Profile:
    return Profile.of(Counts.of(measures(texts, *categories), np.ones(len(texts), dtype=bool)))


def test_a_profile_counts_accepted_items_only_and_everything_once():
    found = Profile.of(Counts.of(measures([1, 50, 10**6]), np.array([True, False, True])))
    assert found.items == 2
    assert {name: sum(cells) for name, cells in found.histograms.items()} == dict.fromkeys(found.histograms, 2)
    assert found.histograms["text"][0] == found.histograms["text"][-1] == 1  # what lies outside is in the last cell
    assert found.categories == ((None, 2),)


def test_counts_of_parts_add_up_to_those_of_the_whole():
    """Chunks number their categories each for itself; the names are what counts."""
    every = np.ones(3, dtype=bool)
    one = Counts.of(measures([1, 2, 30], ("shoe", None), [0, 1, 1]), every)
    other = Counts.of(measures([5, 600, 7], (None, "hat", "shoe"), [0, 2, 1]), np.array([True, True, False]))
    whole = measures([1, 2, 30, 5, 600], ("shoe", None), [0, 1, 1, 1, 0])
    assert Profile.of(Counts.nothing() + one + other) == Profile.of(Counts.of(whole, np.ones(5, dtype=bool)))


def test_categories_are_ordered_and_very_many_are_summed_up():
    names = [f"c{number:04d}" for number in range(MAX_CATEGORIES + 7)]
    found = profile([1] * (len(names) + 1), tuple(names), [*range(len(names)), 5])
    assert found.categories[0] == ("c0005", 2)
    assert len(found.categories) == MAX_CATEGORIES + 1
    assert found.categories[-1] == (OTHER_CATEGORIES, 7)


def test_categories_are_compared_once_the_reference_has_some():
    plain, named = profile([9] * 100), profile([9] * 100, ("shoe",), [0] * 100)
    assert "category" not in [entry.measure for entry in compare(plain, named)]
    lost = {entry.measure: entry for entry in compare(named, plain)}
    assert lost["category"].jensen_shannon == 1
    assert lost["text"].excess == 0


def test_a_version_is_compared_with_the_last_other_one(tmp_path):
    known = History()
    for name in ("a", "b", "a"):
        known = known.with_version(Version(data_version=name, profile=profile([9])))
    assert [known.reference(name).data_version for name in ("a", "b", "c")] == ["b", "a", "a"]
    write_history(tmp_path / "x" / "h.json", known)
    assert read_history(tmp_path / "x" / "h.json") == known
    assert read_history(tmp_path / "none.json").reference("a") is None


def test_an_acceptance_holds_for_its_version_and_its_complaints():
    size, drift = (Complaint(key, f"{key} is wrong", acceptable=True) for key in ("size", "drift"))
    known = History().with_overruled(overrule("a", [size], Acceptance("ana", "fine")))
    assert known.granted("a", [size]).why == "fine"
    assert known.granted("a", [size, drift]) is None
    assert known.granted("b", [size]) is None


def test_a_memory_that_is_not_one_is_named(tmp_path):
    (tmp_path / "h.json").write_text('{"version": []}', encoding="utf-8")
    with pytest.raises(InputError, match=r"h\.json: unknown key `version` \(did you mean `versions`\?\)"):
        read_history(tmp_path / "h.json")


def test_each_catalog_has_a_memory_of_its_own(tmp_path):
    files = [history_file(tmp_path, tmp_path / place) for place in ("a/catalog.yaml", "b/catalog.yaml", "a/other.yaml")]
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        "accepted/a-catalog.json",
        "accepted/b-catalog.json",
        "accepted/a-other.json",
    ]

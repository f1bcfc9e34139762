"""Near copies by perceptual hash: exactly what comparing all pairs would connect, at any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mlim.quality import near_duplicates
from mlim.quality.near_duplicates import LEVEL_TOLERANCE, MAX_DISTANCE, hash_numbers, near_duplicate_links


def components(links, size: int) -> list[int]:
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(size, size))
    labels = connected_components(graph, directed=False)[1]
    return [int(np.flatnonzero(labels == label)[0]) for label in labels]


def all_pairs(numbers, distance: int):
    apart = np.bitwise_count(numbers[:, None] ^ numbers[None, :])
    return np.argwhere(np.triu(apart <= distance, 1))


@st.composite
def clustered_hashes(draw):
    centres = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    flips = draw(st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=6)), max_size=40))
    return [centres[c % len(centres)] ^ sum(1 << bit for bit in bits) for c, bits in flips]


@given(clustered_hashes(), st.integers(0, MAX_DISTANCE))
def test_the_links_connect_what_all_close_pairs_connect(values, distance):
    numbers = np.array(values, dtype=np.uint64)
    links = near_duplicate_links([f"{value:016x}" for value in values], distance)
    assert components(links, len(values)) == components(all_pairs(numbers, distance), len(values))
    assert all(np.bitwise_count(numbers[a] ^ numbers[b]) <= distance for a, b in links)
    assert len(links) < max(len(values), 1)


@given(clustered_hashes(), st.integers(0, MAX_DISTANCE), st.integers(0, 2**32))
def test_with_grey_levels_both_must_be_close(values, distance, seed):
    numbers = np.array(values, dtype=np.uint64)
    levels = np.random.default_rng(seed).uniform((0.495, 0.2), (0.51, 0.23), (len(values), 2)).round(4)
    apart = np.abs(levels[:, None] - levels[None, :])
    wanted = all_pairs(numbers, distance)
    wanted = wanted[(apart[wanted[:, 0], wanted[:, 1]] <= LEVEL_TOLERANCE).all(axis=1)]
    links = near_duplicate_links(numbers, distance, levels)
    assert components(links, len(values)) == components(wanted, len(values))


@pytest.mark.parametrize("distance", [0, 2])
def test_one_hash_with_many_grey_levels_is_searched_completely(monkeypatch, distance):
    monkeypatch.setattr(near_duplicates, "SMALL_BUCKET", 50)
    numbers = np.full(2000, 7, dtype=np.uint64)
    levels = np.random.default_rng(0).uniform(0.1, 0.4, (2000, 2))
    wanted = np.argwhere(np.triu((np.abs(levels[:, None] - levels[None, :]) <= LEVEL_TOLERANCE).all(axis=2), 1))
    links = near_duplicate_links(numbers, distance, levels)
    assert components(links, 2000) == components(wanted, 2000)


@pytest.mark.parametrize("distance", [1, 2, 3, MAX_DISTANCE])
def test_large_buckets_are_split_without_losing_a_pair(monkeypatch, distance):
    monkeypatch.setattr(near_duplicates, "PENDING_LINKS", 500)
    monkeypatch.setattr(near_duplicates, "SMALL_BUCKET", 64)
    plain = np.random.default_rng(0).integers(0, 2**18, 2000, dtype=np.uint64) << np.uint64(20)
    links = near_duplicate_links(plain, distance)
    assert components(links, len(plain)) == components(all_pairs(plain, distance), len(plain))


def test_the_order_of_equal_hashes_does_not_matter_and_copies_are_linked_at_any_distance():
    hashes = ["00000000000000ff", "f000000000000000", "00000000000000ff", "f000000000000000"]
    assert near_duplicate_links(hashes, 0).tolist() == [[0, 2], [1, 3]]


def test_nothing_gives_nothing():
    assert near_duplicate_links([], 3).shape == (0, 2)
    assert near_duplicate_links(["0" * 16], 3).shape == (0, 2)


@pytest.mark.parametrize("distance", [-1, MAX_DISTANCE + 1])
def test_a_distance_that_cannot_be_searched_is_refused(distance):
    with pytest.raises(ValueError, match="not in"):
        near_duplicate_links(["0" * 16], distance)


def test_a_blank_catalog_does_not_go_quadratic():
    blank = np.zeros(120_000, dtype=np.uint64)
    blank[::3] = np.random.default_rng(1).integers(0, 2**16, 40_000, dtype=np.uint64)
    links = near_duplicate_links(blank, 2)
    assert len(links) == len(blank) - 1


def test_hashes_are_read_as_unsigned_hexadecimal():
    assert hash_numbers(["ffffffffffffffff", "0000000000000010"]).tolist() == [2**64 - 1, 16]

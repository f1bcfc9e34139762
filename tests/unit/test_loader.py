"""The order of batches: complete, reproducible, resumable."""

import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.data.loader import BatchLoader, chunks, fetch_ahead
from mlim.data.seeds import seed_of
from mlim.errors import InputError


def loader(count: int, batch_size: int, seed: int = 0) -> BatchLoader[int, list[int]]:
    return BatchLoader(range(count), batch_size, seed, list)


def take(source: BatchLoader[int, list[int]], count: int) -> list[list[int]]:
    batches = list(itertools.islice(source, count))
    source.close()
    return batches


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 2**31))
def test_an_epoch_never_repeats_an_example(count, batch_size, seed):
    per_epoch = max(1, count // batch_size)
    batches = take(loader(count, batch_size, seed), per_epoch)
    seen = [example for batch in batches for example in batch]
    assert all(len(batch) == batch_size for batch in batches)
    if batch_size <= count:
        assert len(set(seen)) == len(seen)
    else:
        assert set(seen) == set(range(count))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 30))
def test_resuming_continues_where_it_stopped(count, batch_size, done):
    through = take(loader(count, batch_size), done + 5)
    stopped = loader(count, batch_size)
    for _ in range(done):
        next(stopped)
    state = stopped.state_dict()
    stopped.close()
    resumed = loader(count, batch_size)
    resumed.load_state_dict(state)
    assert take(resumed, 5) == through[done:]


def test_what_was_fetched_ahead_is_not_counted_as_read():
    source = loader(40, 4)
    next(source)
    assert source.state_dict() == {"epoch": 0, "batch": 1}
    source.close()


def test_epochs_and_seeds_have_orders_of_their_own():
    source = loader(100, 10)
    assert not np.array_equal(source.order(0), source.order(1))
    assert not np.array_equal(source.order(0), loader(100, 10, seed=1).order(0))
    assert np.array_equal(source.order(3), loader(100, 10).order(3))


def test_nothing_to_read_is_explained():
    with pytest.raises(InputError, match="train split is empty"):
        loader(0, 4)


def test_fetching_ahead_keeps_the_order_although_threads_race():
    def slow_at_first(part: int) -> int:
        time.sleep(0.01 if part % 2 == 0 else 0)
        return part

    assert list(fetch_ahead(slow_at_first, range(9))) == list(range(9))


def test_fetching_ahead_happens_beside_the_reader():
    names = list(fetch_ahead(lambda part: threading.current_thread().name, range(2)))
    assert all(name != threading.current_thread().name for name in names)


def test_an_error_while_fetching_reaches_the_reader():
    with pytest.raises(ZeroDivisionError):
        list(fetch_ahead(lambda part: 1 // part, [1, 0, 2]))


def test_chunks_cover_everything_in_order():
    assert [list(part) for part in chunks(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_seeds_are_stable_and_differ_by_purpose():
    assert seed_of("masks", 0, 1) == seed_of("masks", 0, 1)
    assert len({seed_of("masks", 0, 1), seed_of("order", 0, 1), seed_of("masks", 1, 0), seed_of("masks", 0, 2)}) == 4

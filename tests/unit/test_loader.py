"""The order of batches: complete, reproducible, resumable."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlim.data.images import as_floats, to_pixels
from mlim.data.loader import BatchLoader, ShuffledStream, chunks, fetch_ahead
from mlim.data.seeds import seed_of
from mlim.errors import InputError, MlimError


def loader(count: int, batch_size: int, seed: int = 0, **how: int) -> BatchLoader[int, list[int]]:
    return BatchLoader(range(count), batch_size, seed, list, **how)


def take(source: BatchLoader[int, list[int]], count: int) -> list[list[int]]:
    batches = list(itertools.islice(source, count))
    source.close()
    return batches


counts, sizes, seeds = st.integers(1, 60), st.integers(1, 12), st.integers(0, 2**31)


@given(counts, sizes, seeds, st.integers(1, 4))
def test_every_batch_is_full_and_no_example_is_ever_left_out(count, batch_size, seed, epochs):
    """Also where epochs do not end with a batch, and where the catalog is smaller than one."""
    batches = take(loader(count, batch_size, seed), -(-epochs * count // batch_size))
    assert all(len(batch) == batch_size for batch in batches)
    seen = [example for batch in batches for example in batch]
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(counts, st.integers(1, 5), seeds, st.integers(2, 4))
def test_ranks_share_one_stream_without_overlap(count, batch_size, seed, world_size):
    ranks = [take(loader(count, batch_size, seed, rank=rank, world_size=world_size), 5) for rank in range(world_size)]
    together = [[example for rank in ranks for example in rank[step]] for step in range(5)]
    assert together == take(loader(count, world_size * batch_size, seed), 5)


@given(counts, sizes, st.integers(0, 20))
def test_resuming_continues_where_it_stopped(count, batch_size, done):
    through = take(loader(count, batch_size), done + 5)
    stopped = loader(count, batch_size)
    for _ in range(done):
        next(stopped)
    state = json.loads(json.dumps(stopped.state_dict()))
    stopped.close()
    resumed = loader(count, batch_size)
    resumed.load_state_dict(state)
    assert take(resumed, 5) == through[done:]


@given(st.integers(1, 40), st.integers(0, 7))
def test_a_training_continues_on_another_number_of_ranks(count, done):
    def seen(rank: int, world_size: int, batch_size: int, state: dict[str, int], steps: int):
        source = loader(count, batch_size, rank=rank, world_size=world_size)
        source.load_state_dict(state)
        batches = list(itertools.islice(source, steps))
        state = source.state_dict()
        source.close()
        return batches, state

    one, state = seen(0, 1, 4, {"position": 0}, done)
    two = [seen(rank, 2, 2, state, 3)[0] for rank in range(2)]
    assert [*one, *([*a, *b] for a, b in zip(*two, strict=True))] == take(loader(count, 4), done + 3)


def test_what_was_fetched_ahead_is_not_counted_as_read():
    source = loader(40, 4, batches_ahead=5)
    next(source)
    assert source.state_dict() == {"position": 4}
    source.close()


def test_the_state_of_an_older_version_is_explained():
    with pytest.raises(MlimError, match="--resume never"):
        loader(40, 4).load_state_dict({"epoch": 1, "batch": 2})


def test_epochs_and_seeds_have_orders_of_their_own():
    stream = ShuffledStream(100, 0)
    assert not np.array_equal(stream.order(0), stream.order(1))
    assert not np.array_equal(stream.order(0), ShuffledStream(100, 1).order(0))
    assert np.array_equal(stream.order(3), ShuffledStream(100, 0).order(3))


def test_pixels_travel_as_bytes_and_become_the_same_floats():
    pictures = [np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8) for number in range(2)]
    pixels = to_pixels(pictures, 2)
    floats = as_floats(pixels)
    assert pixels.dtype == torch.uint8
    assert floats.is_contiguous(memory_format=torch.channels_last)  # as the embedder wants them
    assert torch.equal(floats, torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 255))
    assert as_floats(floats) is floats


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

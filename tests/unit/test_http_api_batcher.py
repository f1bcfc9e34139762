"""Rows of concurrent requests are computed together, and no request pays for another one's mistake."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.http_api.batcher import Batcher, Room

SIZE = 8
LONG = 30.0  # seconds: nothing waits so long


class Doubled:
    """Doubles numbers, remembers its batches, and fails on batches that hold a negative number."""

    def __init__(self):
        self.batches = []

    def __call__(self, rows):
        self.batches.append(list(rows))
        if min(rows) < 0:
            raise ValueError(f"{min(rows)} is negative")
        return [2 * row for row in rows]


def together(requests, wait_seconds=LONG, size=SIZE):
    """What each request gets when all are read at the same time, and the batches that were computed."""
    compute = Doubled()

    async def ask(batcher, rows, others):
        with batcher.expecting():
            await others.wait()
        return await batcher.run(rows)

    async def ask_all(thread):
        batcher, others = Batcher(compute, size, wait_seconds, thread), asyncio.Barrier(len(requests))
        asked = (ask(batcher, rows, others) for rows in requests)
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), LONG)

    with ThreadPoolExecutor(1) as thread:
        return asyncio.run(ask_all(thread)), compute.batches


def test_small_requests_that_come_together_are_one_batch():
    found, batches = together([[1], [2, 3], [4]])
    assert found == [[2], [4, 6], [8]]
    assert [sorted(batch) for batch in batches] == [[1, 2, 3, 4]]


def test_each_request_by_itself_without_a_wait():
    found, batches = together([[1], [2, 3], [4]], wait_seconds=0.0)
    assert found == [[2], [4, 6], [8]]
    assert sorted(batches) == [[1], [2, 3], [4]]


def test_a_request_that_fails_fails_alone():
    found, batches = together([[1], [-1], [2]])
    assert (found[0], found[2]) == ([2], [4])
    assert str(found[1]) == "-1 is negative"
    assert sorted(map(sorted, batches)) == [[-1], [-1, 1, 2], [1], [2]]


@settings(max_examples=25)
@given(st.lists(st.lists(st.integers(-2, 50), max_size=SIZE), min_size=1, max_size=12))
def test_every_request_gets_its_own_results_in_order(requests):
    found, batches = together(requests)
    for rows, result in zip(requests, found, strict=True):
        if rows and min(rows) < 0:
            assert isinstance(result, ValueError)
        else:
            assert list(result) == [2 * row for row in rows]
    assert max(map(len, batches), default=0) <= SIZE


def test_nobody_waits_where_nothing_is_expected_and_not_for_long_where_something_is():
    async def run(thread):
        compute = Doubled()
        alone = Batcher(compute, SIZE, LONG, thread)
        assert await asyncio.wait_for(alone.run([1]), LONG / 2) == [2]
        hasty = Batcher(compute, SIZE, 0.001, thread)
        with hasty.expecting():
            assert await asyncio.wait_for(hasty.run([1]), LONG / 2) == [2]

    with ThreadPoolExecutor(1) as thread:
        asyncio.run(run(thread))


def test_a_request_that_was_given_up_is_not_computed():
    async def run(thread):
        compute = Doubled()
        batcher = Batcher(compute, SIZE, LONG, thread)
        with batcher.expecting():
            given_up, kept = asyncio.create_task(batcher.run([1])), asyncio.create_task(batcher.run([2]))
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
        assert await asyncio.wait_for(kept, LONG) == [4]
        assert compute.batches == [[2]]

    with ThreadPoolExecutor(1) as thread:
        asyncio.run(run(thread))


def test_rows_in_memory_are_limited_and_nobody_is_overtaken():
    async def run():
        room, held, order, most = Room(4), 0, [], 0

        async def take(rows):
            nonlocal held, most
            async with room.taken(rows):
                order.append(rows)
                held += rows
                most = max(most, held)
                await asyncio.sleep(0)
                held -= rows

        asked = [3, 4, 1, 1, 2, 4, 1]
        await asyncio.wait_for(asyncio.gather(*map(take, asked)), LONG)
        assert (order, most, held) == (asked, 4, 0)

    asyncio.run(run())

"""Turns at hosts, shared by two that download: each stands for a process, as locks know no difference."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlim.catalog.pictures.turns import Turns

PER_HOST = 2
SECONDS = 5.0  # more than any turn takes


async def download(turns, host, running, seconds):
    async with turns.at(host):
        running.append(host)
        assert running.count(host) <= PER_HOST
        await asyncio.sleep(seconds)
        running.remove(host)


def test_two_that_download_keep_to_the_limit_together_and_both_end(tmp_path):
    async def both():
        running = []
        pair = Turns(tmp_path, PER_HOST), Turns(tmp_path, PER_HOST)
        jobs = (download(turns, host, running, 0.001) for _ in range(20) for turns in pair for host in "ab")
        await asyncio.wait_for(asyncio.gather(*jobs), SECONDS)

    asyncio.run(both())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=8))
def test_what_is_cancelled_keeps_no_turn(tmp_path, jobs):
    async def cancelled():
        turns, running = Turns(tmp_path, PER_HOST), []
        tasks = [asyncio.create_task(download(turns, "host", running, 0.001)) for _ in jobs]
        for task, (is_cancelled, later) in zip(tasks, jobs, strict=True):
            for _ in range(later):
                await asyncio.sleep(0)
            if is_cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        others = Turns(tmp_path, PER_HOST)
        async with asyncio.timeout(SECONDS), others.at("host"), others.at("host"):
            pass

    asyncio.run(cancelled())


def test_a_failed_download_hands_its_turn_on(tmp_path):
    async def fail(turns):
        async with turns.at("host"):
            await asyncio.sleep(0)
            raise OSError("the disk is full")

    async def run():
        turns, running = Turns(tmp_path, PER_HOST), []
        failing = [fail(turns) for _ in range(5)]
        await asyncio.gather(*failing, download(turns, "host", running, 0), return_exceptions=True)
        with pytest.raises(OSError, match="full"):
            await fail(turns)
        others = Turns(tmp_path, PER_HOST)
        async with asyncio.timeout(SECONDS), others.at("host"), others.at("host"):
            pass

    asyncio.run(run())

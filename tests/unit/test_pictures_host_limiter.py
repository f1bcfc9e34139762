"""Slots at hosts, shared by two that download: each stands for a process, as locks know no difference."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlim.pictures.host_limiter import HostLimiter

PER_HOST = 2
SECONDS = 5.0  # more than any download takes


async def download(limiter, host, running, seconds):
    async with limiter.slot(host):
        running.append(host)
        assert running.count(host) <= PER_HOST
        await asyncio.sleep(seconds)
        running.remove(host)


def test_two_that_download_keep_to_the_limit_together_and_both_end(tmp_path):
    async def both():
        running = []
        pair = HostLimiter(tmp_path, PER_HOST), HostLimiter(tmp_path, PER_HOST)
        jobs = (download(limiter, host, running, 0.001) for _ in range(20) for limiter in pair for host in "ab")
        await asyncio.wait_for(asyncio.gather(*jobs), SECONDS)

    asyncio.run(both())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=8))
def test_what_is_cancelled_keeps_no_slot(tmp_path, jobs):
    async def cancelled():
        limiter, running = HostLimiter(tmp_path, PER_HOST), []
        tasks = [asyncio.create_task(download(limiter, "host", running, 0.001)) for _ in jobs]
        for task, (is_cancelled, later) in zip(tasks, jobs, strict=True):
            for _ in range(later):
                await asyncio.sleep(0)
            if is_cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        others = HostLimiter(tmp_path, PER_HOST)
        async with asyncio.timeout(SECONDS), others.slot("host"), others.slot("host"):
            pass

    asyncio.run(cancelled())


def test_a_failed_download_hands_its_slot_on(tmp_path):
    async def fail(limiter):
        async with limiter.slot("host"):
            await asyncio.sleep(0)
            raise OSError("the disk is full")

    async def run():
        limiter, running = HostLimiter(tmp_path, PER_HOST), []
        failing = [fail(limiter) for _ in range(5)]
        await asyncio.gather(*failing, download(limiter, "host", running, 0), return_exceptions=True)
        with pytest.raises(OSError, match="full"):
            await fail(limiter)
        others = HostLimiter(tmp_path, PER_HOST)
        async with asyncio.timeout(SECONDS), others.slot("host"), others.slot("host"):
            pass

    asyncio.run(run())

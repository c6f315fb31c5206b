"""The thread pool: workers are reused, given-up calls lose theirs, nothing outlives its use for long."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rft.scoring.threads import Threads


def test_workers_are_reused_and_bounded():
    names = set()

    async def run():
        threads = Threads(2, "test-pool")
        for _ in range(20):
            await asyncio.gather(*(threads.call(lambda: names.add(threading.get_ident())) for _ in range(2)))
        threads.close()

    asyncio.run(run())
    assert 1 <= len(names) <= 2


def test_an_exception_travels_to_the_caller():
    async def run():
        with pytest.raises(ZeroDivisionError):
            await Threads(1, "test-pool").call(lambda: 1 / 0)

    asyncio.run(run())


def test_a_given_up_call_loses_its_worker_and_a_new_one_takes_the_place():
    release = threading.Event()

    async def run():
        threads = Threads(1, "test-pool")
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def hang():
            loop.call_soon_threadsafe(started.set)
            release.wait()

        task = asyncio.create_task(threads.call(hang))
        await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert threads.stuck == 1
        assert await threads.call(lambda: "alive") == "alive"
        release.set()
        while threads.stuck:
            await asyncio.sleep(0.001)
        threads.close()

    asyncio.run(asyncio.wait_for(run(), 10))


def test_a_call_given_up_before_it_starts_never_runs():
    ran = []
    release = threading.Event()

    async def run():
        threads = Threads(1, "test-pool")
        first = asyncio.create_task(threads.call(release.wait))
        second = asyncio.create_task(threads.call(lambda: ran.append(1)))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        release.set()
        await first
        assert await threads.call(lambda: "next") == "next"
        threads.close()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert ran == []

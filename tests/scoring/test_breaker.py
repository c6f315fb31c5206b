"""An open breaker makes work wait; it gives up only when its patience ends."""

from __future__ import annotations

import asyncio

import pytest

from rft.scoring.breaker import Breaker, Open
from rft.types import Score

DOWN = Score.failed("server", "HTTP 503")
OK = Score(1.0)


def now():
    return asyncio.get_running_loop().time()


async def opened(after=3, cool_s=10.0, patience_s=100.0):
    breaker = Breaker(after, cool_s, patience_s)
    for _ in range(after):
        probe = await breaker.enter()
        change = breaker.leave(probe, DOWN)
    assert (change, breaker.is_open) == ("opened", True)
    return breaker


def test_a_run_of_outages_opens_it_and_anything_else_breaks_the_run(in_virtual_time):
    async def run():
        breaker = Breaker(3, 10, 100)
        unreadable, broken = Score.failed("bad_response", "nan"), Score.failed("bug", "KeyError")
        for score in (
            DOWN,
            DOWN,
            OK,
            DOWN,
            DOWN,
            unreadable,
            DOWN,
            DOWN,
            broken,
            DOWN,
            DOWN,
            Score.skip("?"),
        ):
            assert breaker.leave(False, score) is None
        assert not breaker.is_open

    in_virtual_time(run())


@pytest.mark.parametrize("kind", ["timeout", "rate_limited", "transport", "server", "sandbox"])
def test_what_counts_as_an_outage(in_virtual_time, kind):
    async def run():
        return Breaker(1, 10, 100).leave(False, Score.failed(kind, "gone"))

    assert in_virtual_time(run()) == "opened"


def test_after_a_while_one_goes_through_and_the_others_follow_its_success(in_virtual_time):
    async def run():
        breaker = await opened()
        log = []

        async def work(name):
            probe = await breaker.enter()
            log.append((name, probe, now()))
            await asyncio.sleep(2)
            breaker.leave(probe, OK)

        await asyncio.gather(*(work(name) for name in "abc"))
        return log, breaker.paused_s

    log, paused_s = in_virtual_time(run())
    assert log == [("a", True, 10), ("b", False, 12), ("c", False, 12)]
    assert paused_s == 12


def test_a_failed_probe_is_followed_by_another_as_long_as_patience_lasts(in_virtual_time):
    async def run():
        breaker = await opened(cool_s=10, patience_s=35)
        probes = []

        async def work():
            try:
                while True:
                    probe = await breaker.enter()
                    probes.append(now())
                    assert probe
                    assert breaker.leave(probe, DOWN) is None
            except Open as error:
                return now(), str(error)

        ends = await asyncio.gather(work(), work())
        return probes, ends

    probes, ends = in_virtual_time(run())
    assert probes == [10, 20, 30]
    said = "no answer for 35 s; 6 failures in a row, the last: failed (server: HTTP 503)"
    assert ends == [(35, said)] * 2


def test_when_patience_is_over_one_in_a_while_still_tries_and_can_close_it(in_virtual_time):
    async def run():
        breaker = await opened(cool_s=10, patience_s=5)
        with pytest.raises(Open):
            await breaker.enter()
        await asyncio.sleep(10)
        probe = await breaker.enter()
        with pytest.raises(Open):
            await breaker.enter()
        assert (probe, breaker.leave(probe, OK)) == (True, "closed")
        return await breaker.enter()

    assert in_virtual_time(run()) is False


def test_a_cancelled_probe_leaves_its_place_to_another(in_virtual_time):
    async def run():
        breaker = await opened()
        probe = await breaker.enter()
        other = asyncio.create_task(breaker.enter())
        await asyncio.sleep(1)
        assert not other.done()
        breaker.leave(probe, None)
        return await other, breaker.is_open

    assert in_virtual_time(run()) == (True, True)


def test_a_success_that_began_before_closes_it(in_virtual_time):
    async def run():
        breaker = await opened()
        return breaker.leave(False, OK), breaker.is_open

    assert in_virtual_time(run()) == ("closed", False)


def test_waiting_for_it_ends_when_it_closes_or_gives_up(in_virtual_time):
    async def run():
        breaker = await opened()
        waiting = asyncio.create_task(breaker.wait())
        await asyncio.sleep(4)
        breaker.leave(False, OK)
        await waiting
        closed_at = now()
        again = await opened(patience_s=7)
        with pytest.raises(Open, match="no answer for 7 s"):
            await again.wait()
        return closed_at

    assert in_virtual_time(run()) == 4


def test_without_a_threshold_it_never_opens(in_virtual_time):
    async def run():
        breaker = Breaker(None, 10, 100)
        return [breaker.leave(False, DOWN) for _ in range(1000)]

    assert set(in_virtual_time(run())) == {None}

"""Slots and pace."""

from __future__ import annotations

import asyncio

import pytest

from rft.evaluator import Limits
from rft.scoring.limits import Gate


async def take(gate, log, name, hold_s=1.0):
    await gate.acquire()
    log.append((name, asyncio.get_running_loop().time()))
    await asyncio.sleep(hold_s)
    gate.release()


def test_slots_are_handed_over_in_the_order_of_asking(in_virtual_time):
    async def run():
        gate, log = Gate(2, None), []
        await asyncio.gather(*(take(gate, log, number) for number in range(5)))
        return log

    assert in_virtual_time(run()) == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]


def test_a_newcomer_does_not_overtake_who_waits(in_virtual_time):
    async def run():
        gate, log = Gate(1, None), []
        await gate.acquire()
        waiting = asyncio.create_task(take(gate, log, "waiting"))
        await asyncio.sleep(0)
        gate.release()  # handed over, though the waiting task has not run yet
        await asyncio.gather(waiting, take(gate, log, "newcomer"))
        return [name for name, _ in log]

    assert in_virtual_time(run()) == ["waiting", "newcomer"]


def test_who_tries_again_comes_before_who_has_not_begun(in_virtual_time):
    async def run():
        gate, log = Gate(1, None), []

        async def enter(name, again):
            await gate.acquire(again)
            log.append(name)
            gate.release()

        await gate.acquire()
        line = [("first", False), ("again", True), ("second", False), ("again too", True)]
        waiting = [asyncio.create_task(enter(name, again)) for name, again in line]
        await asyncio.sleep(0)
        gate.release()
        await asyncio.gather(*waiting)
        return log

    assert in_virtual_time(run()) == ["again", "again too", "first", "second"]


def test_turns_are_evenly_spaced(in_virtual_time):
    async def run():
        gate, log = Gate(64, 30), []
        await asyncio.gather(*(take(gate, log, number) for number in range(4)))
        return [when for _, when in log]

    assert in_virtual_time(run()) == pytest.approx([0, 2, 4, 6], abs=0.01)


def test_tightening_takes_effect_as_slots_come_back(in_virtual_time):
    async def run():
        gate, log = Gate(3, None), []
        first = [asyncio.create_task(take(gate, log, number)) for number in range(6)]
        await asyncio.sleep(0.5)
        assert gate.tighten(Limits(concurrency=1))
        assert not gate.tighten(Limits(concurrency=2))
        await asyncio.gather(*first)
        return [when for _, when in log]

    assert in_virtual_time(run()) == [0, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("at_the_moment_of_release", [False, True])
def test_who_stops_waiting_loses_no_slot(in_virtual_time, at_the_moment_of_release):
    async def run():
        gate, log = Gate(1, None), []
        await gate.acquire()
        gone = asyncio.create_task(take(gate, log, "gone"))
        await asyncio.sleep(0)
        if at_the_moment_of_release:
            gate.release()
            gone.cancel()
        else:
            gone.cancel()
            await asyncio.sleep(0)
            gate.release()
        await take(gate, log, "next")
        return [name for name, _ in log]

    assert in_virtual_time(run()) == ["next"]

"""Admission to an evaluator: so many at once, so many per minute.

A gate is an object of its own so that evaluators that call the same service can share one; the strictest of
their limits then holds for all.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from rft.evaluator import Evaluator, Limits

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter


def limits_of(evaluator: Evaluator) -> Limits:
    """Its limits; in process mode at most one call for each core, as each takes a process of its own."""
    if evaluator.execution != "process":
        return evaluator.limits
    return replace(evaluator.limits, concurrency=min(evaluator.limits.concurrency, os.cpu_count() or 1))


class Gate:
    """`acquire` waits for a free slot, then for the next turn of the clock; `release` follows.

    Slots are handed over in the order of asking, but those who try again come first: standing at the end of
    the line each time, the unlucky would still be at it when everyone else is done. Turns are evenly spaced
    (one per 60/rpm seconds): a bucket that allows a burst of `rpm` would let nearly twice as many through in
    its first minute. Belongs to one event loop.
    """

    def __init__(self, concurrency: int, rpm: int | None) -> None:
        self.concurrency = concurrency
        self.rpm = rpm
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._again: deque[asyncio.Future[None]] = deque()
        self._pace = _pace(rpm)

    def tighten(self, limits: Limits) -> bool:
        """Takes over whichever of the limits is stricter. Says whether any was."""
        stricter = limits.concurrency < self.concurrency
        self.concurrency = min(self.concurrency, limits.concurrency)
        if limits.rpm is not None and (self.rpm is None or limits.rpm < self.rpm):
            self.rpm = limits.rpm
            self._pace = _pace(limits.rpm)
            stricter = True
        return stricter

    async def acquire(self, again: bool = False) -> None:
        """Returns with a slot taken; `again` when it is not for a first attempt."""
        if self._busy >= self.concurrency:
            await self._turn(self._again if again else self._waiting)
        else:
            self._busy += 1
        if self._pace is not None:
            try:
                await self._pace.acquire()
            except BaseException:  # cancelled while waiting for its turn
                self.release()
                raise

    def release(self) -> None:
        """Gives the slot to who has waited longest, or back."""
        self._busy -= 1
        while (line := self._again or self._waiting) and self._busy < self.concurrency:
            waiter = line.popleft()
            if not waiter.done():
                self._busy += 1
                waiter.set_result(None)

    async def _turn(self, line: deque[asyncio.Future[None]]) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # the slot came at the same moment
                self.release()
            raise


def _pace(rpm: int | None) -> AsyncLimiter | None:
    if rpm is None:
        return None
    # Imported only here, so that `import rft` stays quick.
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(1, 60.0 / rpm)

"""Admission to an evaluator: so many at once, so many per minute.

A gate is an object of its own so that evaluators that call the same service can share one.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from rft.evaluator import Limits


class Gate:
    """`async with gate:` waits for a free slot, then for the next turn of the clock.

    Turns are evenly spaced (one per 60/rpm seconds): a bucket that allows a burst of `rpm` would let nearly
    twice as many through in its first minute. Belongs to one event loop.
    """

    def __init__(self, limits: Limits) -> None:
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._pace = None
        if limits.rpm is not None:
            # Imported only here, so that `import rft` stays quick.
            from aiolimiter import AsyncLimiter

            self._pace = AsyncLimiter(1, 60.0 / limits.rpm)

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        if self._pace is not None:
            try:
                await self._pace.acquire()
            except BaseException:  # cancelled while waiting for its turn
                self._slots.release()
                raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.release()

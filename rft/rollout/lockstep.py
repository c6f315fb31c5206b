"""Conversations that take their turns together, so that the same seeds sample the same tokens again.

What an engine computes depends in its last bits on what else is in its batch, and in conversations of several
turns that depends on whose environment answered first. Here a turn begins when everybody who still plays has
asked for one: all its requests start as one batch, in the order of their seats, while the engine is held.

The price is waiting: every turn is as slow as its longest answer and its slowest environment, and that counts
towards `rollout.timeout_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

Held = Callable[[], AbstractAsyncContextManager[None]]
"""While held, the engine takes requests and begins none."""


class Lockstep:
    """One table of conversations. Belongs to one event loop."""

    def __init__(self, seats: int, held: Held) -> None:
        """
        Args:
            seats: how many conversations there are; each takes its turns until it leaves.
        """
        self._held = held
        self._playing = set(range(seats))
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._beginning: asyncio.Task[None] | None = None

    async def turn(self, seat: int) -> None:
        """Returns when the turn begins; whoever asks the engine for something does so before awaiting more.

        Raises EngineError when the engine cannot be held because it has died.
        """
        self._waiting[seat] = asyncio.get_running_loop().create_future()
        self._begin_when_all_wait()
        try:
            await self._waiting[seat]
        finally:
            del self._waiting[seat]

    def leave(self, seat: int) -> None:
        """The conversation has ended; nobody waits for it any more."""
        self._playing.discard(seat)
        self._begin_when_all_wait()

    def _begin_when_all_wait(self) -> None:
        all_wait = bool(self._playing) and self._playing == self._waiting.keys()
        if all_wait and self._beginning is None and not any(one.done() for one in self._waiting.values()):
            self._beginning = asyncio.get_running_loop().create_task(self._begin())

    async def _begin(self) -> None:
        try:
            async with self._held():
                for _, waiting in sorted(self._waiting.items()):
                    if not waiting.done():
                        waiting.set_result(None)
                await asyncio.sleep(0)  # they run up to their requests, in the order they were told
        except Exception as error:  # whoever waits has to learn that no turn will begin
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(error)
        finally:
            self._beginning = None
            self._begin_when_all_wait()  # whose answers came at once are waiting again

"""Rollouts that end at different times, sent off together: when enough wait, or one has waited enough."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rft.types import Rollout, Score

JudgeBatch = Callable[[Sequence[Rollout]], Awaitable[Sequence[Score]]]
"""Scores rollouts, one score each, and never raises."""


class Batcher:
    """Collects rollouts into batches of at most `size`, none waiting longer than `max_wait_s` seconds.

    Belongs to one event loop.
    """

    def __init__(self, judge: JudgeBatch, size: int, max_wait_s: float) -> None:
        self._judge = judge
        self._size = size
        self._max_wait_s = max_wait_s
        self._waiting: list[tuple[Rollout, asyncio.Future[Score]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def score(self, rollout: Rollout) -> Score:
        """The rollout's score, from whichever batch it gets into. Cancelling leaves the others be."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Score] = loop.create_future()
        self._waiting.append((rollout, done))
        if len(self._waiting) >= self._size:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(self._max_wait_s, self._send)
        return await done

    async def close(self) -> None:
        """Gives up on what is under way."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = [(rollout, done) for rollout, done in self._waiting if not done.done()]
        self._waiting = []
        if waiting:
            task = asyncio.get_running_loop().create_task(self._run(waiting))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: Sequence[tuple[Rollout, asyncio.Future[Score]]]) -> None:
        try:
            scores = await self._judge([rollout for rollout, _ in batch])
        except BaseException as error:  # cancelled, or a defect of ours: nobody may wait for ever
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            raise
        for (_, done), score in zip(batch, scores, strict=True):
            if not done.done():
                done.set_result(score)

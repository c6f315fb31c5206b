"""One call to an evaluator within a time limit: where its code runs, and what its answer means.

Nothing an evaluator does gets past here but scores: an exception is somebody's fault (`attribution`), an
answer is a number or a broken promise (`verdict`). Two decisions:

- A verdict that arrives after its time limit (a bare `except:` that swallows the cancellation, say) is a
  timeout, not a verdict.
- Only a timeout on the event loop is tried again. A thread cannot be killed and may still be at work; a
  worker process was killed, and what loops for ever once will do so again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rft.evaluator import Evaluator
from rft.scoring.attribution import attribute
from rft.scoring.entry import as_scores, awaited, call, expected
from rft.scoring.limits import limits_of
from rft.scoring.processes import Processes
from rft.scoring.threads import Threads
from rft.types import Rollout, Score

_Judge = Callable[[Sequence[Rollout]], Awaitable[list[Score]]]


class Calls:
    """Calls one evaluator's `entry`, on this event loop, in threads, or in worker processes."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._on_loop = evaluator.is_async and evaluator.execution == "async"
        slots = limits_of(evaluator).concurrency
        self._threads = Threads(slots, f"rft-evaluate-{evaluator.name}")
        self._processes = Processes(evaluator, slots) if evaluator.execution == "process" else None

    async def setup(self) -> None:
        """Sets the evaluator up, or a first worker with a copy of it. Raises what that raises."""
        if self._processes is not None:
            await self._processes.start()
        else:
            await awaited(self._evaluator.setup())

    async def close(self) -> None:
        """Closes the evaluator or its copies. Raises what that raises, when all is over."""
        try:
            if self._processes is not None:
                await self._processes.close()
            else:
                await awaited(self._evaluator.close())
        finally:
            self._threads.close()

    async def judge(self, rollouts: Sequence[Rollout], seconds: float) -> list[Score]:
        """The evaluator's verdicts on these rollouts, one each; on a pair that it compares, one."""
        if self._processes is None:
            return await self._timed(self._here, rollouts, seconds)
        try:
            async with self._processes.worker() as worker:  # starting one is not the evaluator's time
                return await self._timed(worker.judge, rollouts, seconds)
        except Exception as error:
            return self._failed(attribute(error), rollouts)

    async def _timed(self, judge: _Judge, rollouts: Sequence[Rollout], seconds: float) -> list[Score]:
        try:
            async with asyncio.timeout(seconds) as clock:
                scores = await judge(rollouts)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failed(attribute(error), rollouts)  # it cancelled itself: not our caller's wish
        except (Exception, SystemExit) as error:
            return self._failed(self._late(seconds) if clock.expired() else attribute(error), rollouts)
        if clock.expired():
            return self._failed(self._late(seconds), rollouts)
        return scores

    async def _here(self, rollouts: Sequence[Rollout]) -> list[Score]:
        if self._on_loop:
            answer = await call(self._evaluator, rollouts)
        else:
            run = _blocking_coroutine if self._evaluator.is_async else call
            answer = await awaited(await self._threads.call(run, self._evaluator, rollouts))
        return as_scores(self._evaluator, answer, rollouts)

    def _late(self, seconds: float) -> Score:
        return Score.failed("timeout", f"no verdict within {seconds:g} s", retryable=self._on_loop)

    def _failed(self, score: Score, rollouts: Sequence[Rollout]) -> list[Score]:
        return [score] * expected(self._evaluator, rollouts)


def _blocking_coroutine(evaluator: Evaluator, rollouts: Sequence[Rollout]) -> Any:
    return asyncio.run(call(evaluator, rollouts))

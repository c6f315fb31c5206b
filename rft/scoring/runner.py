"""Drives one evaluator over many rollouts: limits and retries (`drive`), and whose fault a failure is.

The author of an evaluator writes none of that. Two decisions:

- A verdict that arrives after its time limit (a bare `except:` that swallows the cancellation, say) is a
  timeout, not a verdict.
- A timeout in a thread is not retried: the first call cannot be killed and may still be at work.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.scoring.attribution import attribute
from rft.scoring.breaker import Open
from rft.scoring.cache import ScoreCache, cache_key
from rft.scoring.drive import Driver
from rft.scoring.origin import OnEvent
from rft.scoring.threads import Threads
from rft.scoring.verdict import as_score
from rft.types import Cost, Rollout, Score

_setting_up: ContextVar[ScoringRunner | None] = ContextVar("setting_up", default=None)


class ScoringRunner:
    """One evaluator at work, on one event loop.

        async with ScoringRunner(evaluator) as runner:
            scores = await asyncio.gather(*map(runner.score, rollouts))

    Runners that are made while an evaluator is set up are those of its parts: they inherit what this one was
    given.

    Args:
        on_event: is told what an operator may want to see; see `rft.scoring.events`.
        cache: verdicts that are known already; used when the evaluator is deterministic.
        max_usd: dollars it may spend; the evaluator's own limit when None.

    Raises UserError for an evaluator that cannot be run at all.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        on_event: OnEvent | None = None,
        cache: ScoreCache | None = None,
        max_usd: float | None = None,
    ) -> None:
        if not isinstance(evaluator, Evaluator):
            raise UserError(
                f"an evaluator must be an instance of rft.Evaluator, got {evaluator!r}; "
                "decorate a function with @rft.evaluator, call a class"
            )
        if evaluator.execution not in ("async", "thread"):
            raise UserError(
                f'{evaluator.name}: execution must be "async" or "thread", got {evaluator.execution!r}'
            )
        self.evaluator = evaluator
        self.name = evaluator.name or type(evaluator).__name__
        self.fingerprint = evaluator.fingerprint()
        self._threads = Threads(evaluator.limits.concurrency, f"rft-evaluate-{self.name}")
        self._on_loop = evaluator.is_async and evaluator.execution == "async"
        self.inner: list[ScoringRunner] = []
        """Those of its parts."""
        whole = _setting_up.get()
        if whole is not None:
            whole.inner.append(self)
            on_event, cache = on_event or whole._on_event, cache or whole._cache
        self._on_event = on_event or (lambda name, fields: None)
        self._cache = cache
        self._driver = Driver(evaluator, self._on_event, max_usd)

    async def __aenter__(self) -> ScoringRunner:
        await self.setup()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def setup(self) -> None:
        """Runs the evaluator's own `setup`. Raises UserError when that fails: nothing could be scored."""
        self.inner.clear()
        token = _setting_up.set(self)
        try:
            await _maybe_async(self.evaluator.setup())
        except UserError:
            raise
        except Exception as error:
            why = attribute(error).explain()
            raise UserError(f"evaluator {self.name} could not be set up: {why}") from error
        finally:
            _setting_up.reset(token)

    async def ready(self) -> None:
        """Returns when no service it needs is known to be away, or when that has been so for too long.

        Ask it before work is begun that will need scores.
        """
        with contextlib.suppress(Open):
            for runner in self.everyone():
                await runner._driver.origin.breaker.wait()

    def everyone(self) -> Iterator[ScoringRunner]:
        """Itself, its parts, their parts."""
        yield self
        for runner in self.inner:
            yield from runner.everyone()

    @property
    def paused_s(self) -> float:
        """Seconds that breakers, its parts' too, have held work back so far; ended openings only."""
        origins = {id(origin): origin for origin in (r._driver.origin for r in self.everyone())}
        return sum(origin.breaker.paused_s for origin in origins.values())

    @property
    def cost(self) -> Cost:
        """Of all evaluations so far."""
        return self._driver.cost

    async def score(self, rollout: Rollout) -> Score:
        """The verdict on one finished rollout, stamped with who gave it, how fast and at what price.

        Never raises for a bad evaluation: that is a `Score` without a number. Cancellation passes through.
        """
        if self._cache is None or not self.evaluator.deterministic:
            score = await self._drive(rollout)
        else:
            key = cache_key(self.fingerprint, rollout)
            score = await self._cache.once(key, lambda: self._drive(rollout))
        return score.stamped(evaluator=self.name, fingerprint=self.fingerprint)

    async def _drive(self, rollout: Rollout) -> Score:
        async def attempt(seconds: float) -> list[Score]:
            return [await self._judge(rollout, seconds)]

        (score,) = await self._driver.call(attempt)
        return score

    async def settle(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> list[Score]:
        """One prompt's scores made comparable, once all are in. See `Evaluator.settle`."""
        settled = list(await _maybe_async(self.evaluator.settle(rollouts, scores)))
        if len(settled) != len(scores):
            failed = Score.failed("bug", f"settle returned {len(settled)} scores for {len(scores)}")
            return [failed.stamped(evaluator=self.name, fingerprint=self.fingerprint)] * len(scores)
        return settled

    async def close(self) -> None:
        """Runs the evaluator's own `close` and lets its threads end. Never raises: the work is done."""
        try:
            await _maybe_async(self.evaluator.close())
        except Exception as error:
            self._on_event(
                "evaluator_close_failed", {"evaluator": self.name, "why": attribute(error).explain()}
            )
        self._threads.close()

    async def _judge(self, rollout: Rollout, seconds: float) -> Score:
        """One call of `evaluate` within a time limit, as a score whatever happens."""
        try:
            async with asyncio.timeout(seconds) as clock:
                verdict = await self._call(rollout)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return attribute(error)  # the evaluator cancelled itself: not our caller's wish
        except (Exception, SystemExit) as error:
            return self._late(seconds) if clock.expired() else attribute(error)
        if clock.expired():
            return self._late(seconds)
        return as_score(verdict, rollout, self.evaluator.range)

    async def _call(self, rollout: Rollout) -> Any:
        if self._on_loop:
            return await self.evaluator.evaluate(rollout)
        evaluate = _blocking_coroutine if self.evaluator.is_async else _plain
        return await _maybe_async(await self._threads.call(evaluate, self.evaluator, rollout))

    def _late(self, seconds: float) -> Score:
        return Score.failed("timeout", f"no verdict within {seconds:g} s", retryable=self._on_loop)


def _plain(evaluator: Evaluator, rollout: Rollout) -> Any:
    return evaluator.evaluate(rollout)


def _blocking_coroutine(evaluator: Evaluator, rollout: Rollout) -> Any:
    return asyncio.run(evaluator.evaluate(rollout))


async def _maybe_async(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value

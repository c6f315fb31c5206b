"""Drives one evaluator over many rollouts: slots, pace, time limits, retries, and whose fault a failure is.

The author of an evaluator writes none of that. Three decisions:

- A slot is held while an attempt runs and given back during the pause before a retry, so that a few slow
  failures do not starve the rest; and the deadline counts attempts and pauses, not the wait for a slot, so
  that a long queue of our own making fails nobody.
- A verdict that arrives after its time limit (a bare `except:` that swallows the cancellation, say) is a
  timeout, not a verdict.
- A timeout in a thread is not retried: the first call cannot be killed and may still be at work.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.scoring.attribution import attribute
from rft.scoring.limits import Gate
from rft.scoring.threads import Threads
from rft.scoring.verdict import as_score
from rft.types import Cost, Rollout, Score

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

OnEvent = Callable[[str, dict[str, Any]], None]
"""Receives (name, fields) of what an operator may want to see: evaluator_retry, evaluator_close_failed."""

_LONGEST_PAUSE_S = 20.0


@dataclass
class _Ledger:
    """What one evaluation has used so far."""

    seconds: float = 0.0
    attempts: int = 0
    cost: Cost = Cost()


class ScoringRunner:
    """One evaluator at work, on one event loop.

        async with ScoringRunner(evaluator) as runner:
            scores = await asyncio.gather(*map(runner.score, rollouts))

    Raises UserError for an evaluator that cannot be run at all.
    """

    def __init__(self, evaluator: Evaluator, *, on_event: OnEvent | None = None) -> None:
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
        self.cost = Cost()
        """Of all evaluations so far."""
        self._limits = evaluator.limits
        self._gate = Gate(evaluator.limits)
        self._threads = Threads(evaluator.limits.concurrency, f"rft-evaluate-{self.name}")
        self._on_loop = evaluator.is_async and evaluator.execution == "async"
        self._on_event = on_event or (lambda name, fields: None)

    async def __aenter__(self) -> ScoringRunner:
        await self.setup()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def setup(self) -> None:
        """Runs the evaluator's own `setup`. Raises UserError when that fails: nothing could be scored."""
        try:
            await _maybe_async(self.evaluator.setup())
        except UserError:
            raise
        except Exception as error:
            why = attribute(error).explain()
            raise UserError(f"evaluator {self.name} could not be set up: {why}") from error

    async def score(self, rollout: Rollout) -> Score:
        """The verdict on one finished rollout, stamped with who gave it, how fast and at what price.

        Never raises for a bad evaluation: that is a `Score` without a number. Cancellation passes through.
        """
        ledger = _Ledger()
        score: Score = await self._retrying(ledger)(self._attempt, rollout, ledger)
        return score.stamped(
            evaluator=self.name,
            fingerprint=self.fingerprint,
            latency_s=ledger.seconds,
            attempts=ledger.attempts,
            cost=ledger.cost,
        )

    def settle(self, scores: Sequence[Score]) -> list[Score]:
        """One prompt's scores made comparable, once all are in. See `Evaluator.settle`."""
        settled = list(self.evaluator.settle(scores))
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

    def _retrying(self, ledger: _Ledger) -> AsyncRetrying:
        # Imported only here, so that `import rft` stays quick.
        from tenacity import AsyncRetrying, retry_if_result, wait_random_exponential

        limits = self._limits

        def enough(state: RetryCallState) -> bool:
            late = ledger.seconds + state.upcoming_sleep >= limits.deadline_s
            return late or ledger.attempts >= limits.attempts

        def note(state: RetryCallState) -> None:
            ledger.seconds += state.upcoming_sleep
            assert state.outcome is not None
            why = state.outcome.result().explain()
            self._on_event(
                "evaluator_retry",
                {
                    "evaluator": self.name,
                    "attempt": ledger.attempts,
                    "why": why,
                    "wait_s": state.upcoming_sleep,
                },
            )

        return AsyncRetrying(
            retry=retry_if_result(_retryable),
            stop=enough,
            wait=wait_random_exponential(multiplier=limits.backoff_s, max=_LONGEST_PAUSE_S),
            before_sleep=note,
            retry_error_callback=_last_score,
        )

    async def _attempt(self, rollout: Rollout, ledger: _Ledger) -> Score:
        async with self._gate:
            budget = self._limits.max_usd
            if budget is not None and self.cost.usd >= budget:
                return Score.failed(
                    "budget", f"max_usd = {budget:g} is spent; raise it in the evaluator's limits"
                )
            ledger.attempts += 1
            seconds = min(self._limits.timeout_s, self._limits.deadline_s - ledger.seconds)
            began = time.perf_counter()
            score = await self._judge(rollout, seconds)
            ledger.seconds += time.perf_counter() - began
        ledger.cost += score.cost
        self.cost += score.cost
        return score

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


def _retryable(score: Score) -> bool:
    return score.failure is not None and score.failure.retryable


def _last_score(state: RetryCallState) -> Score:
    assert state.outcome is not None
    score: Score = state.outcome.result()
    return score

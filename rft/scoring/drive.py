"""One call to an evaluator with all that surrounds it: breaker, slot, pace, budget, time limits, retries.

What a call is, one rollout, a batch, a comparison, is its caller's business. Five decisions:

- A slot is held while an attempt runs and given back during the pause before a retry, so that a few slow
  failures do not starve the rest.
- The deadline counts attempts and pauses, not the wait for a slot or for a breaker to close: a long queue of
  our own making, or an outage that ends, fails nobody.
- Attempts that fail while the breaker is open and patient do not count: they are the breaker's probes, or
  were under way when it opened. Otherwise an outage would use up the attempts of whoever happened to probe.
- The pause before a retry doubles only while the service fails everybody: it is there to spare a service in
  trouble, and one that answers others is in none.
- A service that asks to be left alone (`Retry-After`) is, and where the deadline does not allow that the
  failure stands: asking earlier would only be refused again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rft.evaluator import Evaluator
from rft.scoring.breaker import Open, is_outage
from rft.scoring.origin import OnEvent, Origin, origin_of
from rft.types import Cost, Failure, Score

Attempt = Callable[[float], Awaitable[Sequence[Score]]]
"""One try within so many seconds. Never raises but for cancellation; at least one score."""

_LONGEST_PAUSE_S = 20.0


@dataclass
class _Ledger:
    """What one call has used so far."""

    attempts: int = 0
    tries: int = 0
    """Attempts that count against the limit."""
    latency_s: float = 0.0
    """Of attempts and pauses."""
    charged_s: float = 0.0
    """What counts of that against the deadline."""
    cost: Cost = Cost()
    """Of all attempts but the last, whose scores carry their own."""


class Driver:
    """All calls to one evaluator, on one event loop.

    Args:
        max_usd: dollars it may spend; `limits.max_usd` when None.
    """

    def __init__(self, evaluator: Evaluator, on_event: OnEvent, max_usd: float | None = None) -> None:
        self.cost = Cost()
        """Of all calls so far."""
        self.max_usd = evaluator.limits.max_usd if max_usd is None else max_usd
        self._evaluator = evaluator
        self._limits = evaluator.limits
        self._on_event = on_event
        self._origin: Origin | None = None

    @property
    def origin(self) -> Origin:
        """Shared with every evaluator of the same origin in this loop."""
        if self._origin is None:
            self._origin = origin_of(self._evaluator, self._on_event)
        return self._origin

    async def call(self, attempt: Attempt) -> list[Score]:
        """The last attempt's scores, stamped with latency and attempts; the first bears earlier costs."""
        ledger = _Ledger()
        while True:
            scores = await self._attempt(attempt, ledger)
            failures = [score.failure for score in scores if score.failure and score.failure.retryable]
            if not failures or not await self._again(failures, ledger):
                break
            ledger.cost += _cost(scores)
        stamps = {"latency_s": ledger.latency_s, "attempts": ledger.attempts}
        first = scores[0].stamped(cost=scores[0].cost + ledger.cost, **stamps)
        return [first, *(score.stamped(**stamps) for score in scores[1:])]

    async def _attempt(self, attempt: Attempt, ledger: _Ledger) -> Sequence[Score]:
        origin = self.origin
        try:
            probe = await origin.enter(again=ledger.attempts > 0)
        except Open as error:
            return [Score.failed("circuit_open", str(error))]
        answer: Score | None = None
        try:
            if self.max_usd is not None and self.cost.usd >= self.max_usd:
                return [Score.failed("budget", f"{self.cost.usd:.2f} of {self.max_usd:g} USD are spent")]
            began = _now()
            ledger.attempts += 1
            scores = await attempt(min(self._limits.timeout_s, self._limits.deadline_s - ledger.charged_s))
            answer = next((score for score in scores if not is_outage(score)), scores[0])
        finally:
            origin.leave(probe, answer, self._on_event)
        ledger.latency_s += _now() - began
        if not (probe and origin.breaker.is_patient):
            ledger.charged_s += _now() - began
        self.cost += _cost(scores)
        return scores

    async def _again(self, failures: Sequence[Failure], ledger: _Ledger) -> bool:
        """Whether another attempt may be made; returns when it is time for it."""
        if ledger.charged_s >= self._limits.deadline_s:
            return False
        breaker = self.origin.breaker
        if breaker.is_open:
            return breaker.is_patient  # `enter` waits until it closes
        ledger.tries += 1
        asked_s = max(failure.retry_after_s or 0.0 for failure in failures)
        doublings = max(0, min(ledger.tries, breaker.in_a_row) - 1)
        longest_s = min(_LONGEST_PAUSE_S, self._limits.backoff_s * 2.0 ** min(doublings, 30))
        pause_s = asked_s + random.uniform(0.0, longest_s)
        if ledger.tries >= self._limits.attempts or ledger.charged_s + pause_s >= self._limits.deadline_s:
            return False
        why = f"failed ({failures[0].kind}: {failures[0].detail})"
        fields = {"evaluator": self._evaluator.name, "attempt": ledger.attempts, "why": why}
        self._on_event("evaluator_retry", {**fields, "wait_s": pause_s})
        await asyncio.sleep(pause_s)
        ledger.latency_s += pause_s
        ledger.charged_s += pause_s
        return True


def _cost(scores: Sequence[Score]) -> Cost:
    if len(scores) == 1:
        return scores[0].cost
    return sum((score.cost for score in scores), Cost())


def _now() -> float:
    return asyncio.get_running_loop().time()

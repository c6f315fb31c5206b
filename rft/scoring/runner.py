"""Drives one evaluator over many rollouts. The author of an evaluator writes none of what is done here.

Limits and retries are `drive`'s, running its code and reading its answer `calls`'. What is left is which
rollouts go into a call: one, a batch of those that happen to wait, or a group once it is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial

from rft.errors import UserError
from rft.evaluator import BatchEvaluator, Evaluator, GroupEvaluator
from rft.scoring.attribution import attribute
from rft.scoring.batching import Batcher
from rft.scoring.breaker import Open
from rft.scoring.cache import ScoreCache, cache_key
from rft.scoring.calls import Calls
from rft.scoring.drive import Driver
from rft.scoring.entry import awaited, expected
from rft.scoring.journal import Journal
from rft.scoring.origin import OnEvent
from rft.scoring.settling import Ask, in_play, judge_group, placeholder
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
        journal: evaluations that were made before the run was killed; used for every evaluator.
        max_usd: dollars it may spend; the evaluator's own limit when None.

    Raises UserError for an evaluator that cannot be run at all.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        *,
        on_event: OnEvent | None = None,
        cache: ScoreCache | None = None,
        journal: Journal | None = None,
        max_usd: float | None = None,
    ) -> None:
        if not isinstance(evaluator, Evaluator):
            raise UserError(
                f"an evaluator must be an instance of rft.Evaluator, got {evaluator!r}; "
                "decorate a function with @rft.evaluator, call a class"
            )
        if evaluator.execution not in ("async", "thread", "process"):
            modes = '"async", "thread" or "process"'
            raise UserError(f"{evaluator.name}: execution must be {modes}, got {evaluator.execution!r}")
        self.evaluator = evaluator
        self.name = evaluator.name or type(evaluator).__name__
        self.fingerprint = evaluator.fingerprint()
        self.inner: list[ScoringRunner] = []
        """Those of its parts."""
        self._place = ""
        whole = _setting_up.get()
        if whole is not None:
            self._place = f"{whole._place}/{len(whole.inner)}"
            whole.inner.append(self)
            on_event, cache = on_event or whole._on_event, cache or whole._cache
            journal = journal or whole._journal
        self._on_event: OnEvent = on_event or (lambda name, fields: None)
        self._cache: ScoreCache | None = cache
        self._journal: Journal | None = journal
        self._driver = Driver(evaluator, self._on_event, max_usd)
        self._calls = Calls(evaluator)
        self._batcher = None
        if isinstance(evaluator, BatchEvaluator):
            self._batcher = Batcher(self._ask_batch, evaluator.batch_size, evaluator.max_wait_s)

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
            await self._calls.setup()
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

    @property
    def max_usd(self) -> float | None:
        """Dollars it may spend."""
        return self._driver.max_usd

    async def score(self, rollout: Rollout) -> Score:
        """The verdict on one finished rollout, stamped with who gave it, how fast and at what price.

        Never raises for a bad evaluation: that is a `Score` without a number. Cancellation passes through.
        An evaluator of groups gives a placeholder here, and scores in `settle`.
        """
        if isinstance(self.evaluator, GroupEvaluator):
            score = placeholder()
        else:
            (score,) = await self._replayed([rollout], self._judge)
        return score.stamped(evaluator=self.name, fingerprint=self.fingerprint)

    async def _replayed(self, rollouts: Sequence[Rollout], ask: Ask) -> list[Score]:
        """From the journal or else by `ask`; what was paid before counts as spent."""
        if self._journal is None:
            return await ask(rollouts)
        scores, cost = await self._journal.replay(
            f"{self.fingerprint}{self._place}",
            self.evaluator.deterministic,
            rollouts,
            lambda: ask(rollouts),
        )
        self._driver.cost += cost
        return scores

    async def _judge(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Of one rollout: from the cache or by a call."""
        (rollout,) = rollouts
        if self._cache is None or not self.evaluator.deterministic:
            return [await self._drive(rollout)]
        key = cache_key(self.fingerprint, rollout)
        return [await self._cache.once(key, lambda: self._drive(rollout))]

    async def _drive(self, rollout: Rollout) -> Score:
        if self._batcher is not None:
            return await self._batcher.score(rollout)
        return (await self._ask([rollout]))[0]

    async def settle(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> list[Score]:
        """One prompt's scores, finished once all are in: same order, masked ones stay masked.

        An evaluator of groups judges here; a composite makes its parts comparable (`Evaluator.settle`).
        Never raises for a bad evaluation.
        """
        if isinstance(self.evaluator, GroupEvaluator):
            ask = partial(self._replayed, ask=self._ask)
            settled = await judge_group(self.evaluator, rollouts, scores, ask)
        else:
            settled = await self._settled(rollouts, scores)
            for before, after in zip(scores, settled, strict=True):
                self._driver.cost += after.cost - before.cost
        return [
            after if after is before else after.stamped(evaluator=self.name, fingerprint=self.fingerprint)
            for before, after in zip(scores, settled, strict=True)
        ]

    async def _settled(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> list[Score]:
        try:
            settled = list(await awaited(self.evaluator.settle(rollouts, scores)))
        except Exception as error:
            broken = attribute(error)
        else:
            if len(settled) == len(scores):
                return settled
            broken = Score.failed("bug", f"settle returned {len(settled)} scores for {len(scores)}")
        return [broken.stamped(cost=score.cost) if in_play(score) else score for score in scores]

    async def close(self) -> None:
        """Runs the evaluator's own `close` and lets its threads end. Never raises: the work is done."""
        try:
            if self._batcher is not None:
                await self._batcher.close()
            await self._calls.close()
        except Exception as error:
            self._on_event(
                "evaluator_close_failed", {"evaluator": self.name, "why": attribute(error).explain()}
            )

    async def _ask(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One call about these rollouts, retries included."""

        async def attempt(seconds: float) -> list[Score]:
            return await self._calls.judge(rollouts, seconds)

        return _for_all(await self._driver.call(attempt), expected(self.evaluator, rollouts))

    async def _ask_batch(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One call about these rollouts; a retry asks only for those whose failure may pass."""
        scores: dict[int, Score] = {}
        asked = list(range(len(rollouts)))

        async def attempt(seconds: float) -> list[Score]:
            asked[:] = [i for i in asked if i not in scores or _may_pass(scores[i])]
            got = await self._calls.judge([rollouts[i] for i in asked], seconds)
            scores.update(zip(asked, got, strict=True))
            return got

        last = _for_all(await self._driver.call(attempt), len(asked))
        # The first of the last call bears the cost of all calls before.
        earlier = {i: score.stamped(cost=Cost()) for i, score in scores.items()}
        final = {**earlier, **dict(zip(asked, last, strict=True))}
        return [final[i] for i in range(len(rollouts))]


def _may_pass(score: Score) -> bool:
    return score.failure is not None and score.failure.retryable


def _for_all(scores: list[Score], count: int) -> list[Score]:
    """A call that was not made (no budget, breaker open) has one score, which holds for all it was about."""
    if len(scores) == count:
        return scores
    return [scores[0], *[scores[0].stamped(cost=Cost())] * (count - 1)]

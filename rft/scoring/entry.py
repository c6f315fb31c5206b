"""How an evaluator's entry is called and its answer read, in this process and in a worker alike."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rft.evaluator import Evaluator, GroupEvaluator
from rft.scoring.verdict import as_score
from rft.types import Rollout, Score

_TAKE_MANY = ("evaluate_batch", "evaluate_group")


def call(evaluator: Evaluator, rollouts: Sequence[Rollout]) -> Any:
    """What its entry returns: an answer, or an awaitable of one."""
    entry = getattr(evaluator, evaluator.entry)
    return entry(rollouts) if evaluator.entry in _TAKE_MANY else entry(*rollouts)


def expected(evaluator: Evaluator, rollouts: Sequence[Rollout]) -> int:
    """How many scores an answer about these rollouts holds."""
    return len(rollouts) if evaluator.entry in _TAKE_MANY else 1


def as_scores(evaluator: Evaluator, answer: Any, rollouts: Sequence[Rollout]) -> list[Score]:
    """The answer as scores, `expected` many. Never raises; see `rft.scoring.verdict`.

    In a group, all or nothing: when one verdict has no number, every member's failure is that one.
    """
    if evaluator.entry not in _TAKE_MANY:
        bounds = (0.0, 1.0) if evaluator.entry == "compare" else evaluator.range
        return [as_score(answer, rollouts[0], bounds)]
    if not hasattr(answer, "__len__") or isinstance(answer, str | Mapping):
        got = f"a {type(answer).__name__}, not a list of verdicts"
    elif len(answer) != len(rollouts):
        got = f"{len(answer)} verdicts for {len(rollouts)} rollouts"
    else:
        scores = [as_score(*pair, evaluator.range) for pair in zip(answer, rollouts, strict=True)]
        return all_or_nothing(scores) if isinstance(evaluator, GroupEvaluator) else scores
    return [Score.failed("bug", f"{evaluator.entry} returned {got}")] * len(rollouts)


def all_or_nothing(scores: Sequence[Score]) -> list[Score]:
    """The scores of a group; all without a number, for the same reason, when one is. Costs stay."""
    without = [score for score in scores if not score.ok]
    if not without:
        return list(scores)
    worst = next((score for score in without if score.failure is not None), without[0])
    return [worst.stamped(cost=score.cost) for score in scores]


async def awaited(value: Any) -> Any:
    """The value, or what it is an awaitable of."""
    return await value if inspect.isawaitable(value) else value

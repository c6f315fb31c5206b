"""Finished rollouts scored as training scores them: each prompt's answers together, settled once complete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from rft import background
from rft.evaluator import Evaluator, FunctionEvaluator
from rft.scoring.runner import ScoringRunner
from rft.types import Group, Rollout


def score_groups(evaluator: Evaluator | Callable[..., Any], rollouts: Sequence[Rollout]) -> list[Group]:
    """Scores rollouts and waits for the verdicts; works inside a running event loop too.

    Args:
        evaluator: an evaluator, or a plain function whose arguments are injected by name.
        rollouts: in any order; those with one `group_id` answer the same prompt.

    Returns:
        See `score_each`.

    Raises UserError for an evaluator that cannot be set up.
    """
    if not isinstance(evaluator, Evaluator) and callable(evaluator) and not isinstance(evaluator, type):
        evaluator = FunctionEvaluator(evaluator)
    runner = ScoringRunner(evaluator)  # type: ignore[arg-type]  # refuses what is not an evaluator, in words

    async def once() -> list[Group]:
        async with runner:
            return await score_each(runner, rollouts)

    return background.run(once())


async def score_each(runner: ScoringRunner, rollouts: Sequence[Rollout]) -> list[Group]:
    """One group for each `group_id`, in order of first appearance. A failed evaluation has no number."""
    members: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        members.setdefault(rollout.group_id, []).append(rollout)

    async def one(group_id: str, rollouts_G: Sequence[Rollout]) -> Group:
        scores_G = await asyncio.gather(*map(runner.score, rollouts_G))
        return Group(group_id, rollouts_G[0].task, rollouts_G, await runner.settle(rollouts_G, scores_G))

    return list(await asyncio.gather(*(one(*group) for group in members.items())))

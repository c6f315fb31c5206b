"""A group's last look: group evaluators do their work once the last rollout is there.

Until then each of its rollouts has a placeholder, neither a number nor a failure. A rollout that got anything
else in its place, because its environment failed or another part of a composite masked it, is masked
already: it is not shown to the evaluator, and what the others get does not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from rft.evaluator import GroupEvaluator, PairwiseEvaluator
from rft.scoring.attribution import attribute
from rft.scoring.tournament import play
from rft.types import Rollout, Score

Ask = Callable[[Sequence[Rollout]], Awaitable[list[Score]]]
"""One call of the evaluator's entry, with all retries made. Never raises."""

_WAITING = "judged with its group"


def placeholder() -> Score:
    """What a rollout has until its group is complete."""
    return Score(None, "not_applicable", _WAITING)


def waits(score: Score) -> bool:
    """Whether a score is a placeholder."""
    return score.status == "not_applicable" and score.reason == _WAITING


def in_play(score: Score) -> bool:
    """Whether a member of a group is not masked, so far."""
    return score.ok or waits(score)


async def judge_group(
    evaluator: GroupEvaluator, rollouts: Sequence[Rollout], scores: Sequence[Score], ask: Ask
) -> list[Score]:
    """The group's scores, with those of the members that wait for one filled in.

    With fewer than `min_members` of them, they are skipped. All or nothing otherwise.
    """
    members = [rollout for rollout, score in zip(rollouts, scores, strict=True) if waits(score)]
    if not members:
        return list(scores)
    if len(members) < evaluator.min_members:
        why = f"{len(members)} of {len(rollouts)} rollouts to compare, min_members is {evaluator.min_members}"
        judged = [Score.skip(why)] * len(members)
    else:
        began = time.perf_counter()
        judged = await _judged(evaluator, members, ask)
        latency_s = time.perf_counter() - began
        judged = [score.stamped(latency_s=latency_s) for score in judged]
    left = iter(judged)
    return [next(left) if waits(score) else score for score in scores]


async def _judged(evaluator: GroupEvaluator, members: Sequence[Rollout], ask: Ask) -> list[Score]:
    if not isinstance(evaluator, PairwiseEvaluator):
        return await ask(members)

    async def compare(first: Rollout, second: Rollout) -> Score:
        (score,) = await ask((first, second))
        return score

    try:
        return await play(evaluator, members, compare)
    except Exception as error:  # of `baseline`, which its author may have written
        return [attribute(error)] * len(members)

"""Tasks become scored groups. A rollout is scored the moment it ends, while others still generate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rft.errors import EndpointError, EnvironmentFailure
from rft.rollout.play import AnyPlayer, rollout_seed
from rft.types import Group, Rollout, Score, Task

ScoreOne = Callable[[Rollout], Awaitable[Score]]
SettleGroup = Callable[[Sequence[Score]], Sequence[Score]]


async def collect(
    player: AnyPlayer,
    score: ScoreOne,
    tasks_P: Sequence[Task],
    *,
    group_size: int,
    seed_parts: Sequence[object],
    temperature: float,
    settle: SettleGroup = list,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Group]:
    """Plays and scores `group_size` rollouts of each task, all at once.

    Args:
        score: scores one rollout and never raises; see `rft.scoring.ScoringRunner.score`.
        tasks_P: the step's tasks; one may occur twice.
        seed_parts: what, beside task and number, makes the rollouts' seeds: the run's seed and the step.
        settle: a last look at a whole group's scores.
        on_progress: called with (scored, total) after each rollout.

    Returns:
        One group per task, in the order of `tasks_P`, members in the order of their numbers.

    Raises EngineError when the engine dies; everything still running is cancelled first.
    """
    total = len(tasks_P) * group_size
    done = 0

    async def one(task: Task, group_id: str, index: int) -> tuple[Rollout, Score]:
        nonlocal done
        seed = rollout_seed(*seed_parts, group_id, index)  # the group, as one task may stand in a step twice
        # What is left of a rollout that nobody could finish.
        rollout = Rollout(f"{group_id}/{index}", group_id, task, tuple(task.messages), stop="tool_error", seed=seed)
        try:
            rollout = await player.play(task, group_id=group_id, index=index, seed=seed, temperature=temperature)
            verdict = await score(rollout)
        except EnvironmentFailure as error:
            verdict = Score.failed("sandbox", f"environment: {error}")
        except EndpointError as error:
            verdict = Score.failed(error.kind, f"endpoint: {error.detail}")
        done += 1
        on_progress(done, total)
        return rollout, verdict

    # Held until every rollout has made its first request, the engine starts them all in one batch: the same
    # batch every time, so that the same recipe and seed sample the same tokens.
    hold = player.held()
    await asyncio.to_thread(hold.__enter__)
    try:
        async with asyncio.TaskGroup() as together:
            members_PG = [
                [together.create_task(one(task, f"{number}-{task.id}", index)) for index in range(group_size)]
                for number, task in enumerate(tasks_P)
            ]
            await asyncio.sleep(0)
            hold.__exit__(None, None, None)
            hold = None
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        if hold is not None:
            hold.__exit__(None, None, None)
    groups = []
    for task, members_G in zip(tasks_P, members_PG, strict=True):
        rollouts_G, scores_G = zip(*(member.result() for member in members_G), strict=True)
        groups.append(Group(rollouts_G[0].group_id, task, rollouts_G, settle(scores_G)))
    return groups

"""Tasks become scored groups. A rollout is scored the moment it ends, while others still generate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager

from rft.errors import EndpointError, EnvironmentFailure
from rft.rollout.play import AnyPlayer, rollout_seed
from rft.types import Group, Rollout, Score, Task

ScoreOne = Callable[[Rollout], Awaitable[Score]]
SettleGroup = Callable[[Sequence[Rollout], Sequence[Score]], Awaitable[Sequence[Score]]]

_Member = tuple[Rollout, Score]


async def collect(
    player: AnyPlayer,
    score: ScoreOne,
    tasks_P: Sequence[Task],
    *,
    group_size: int,
    seed_parts: Sequence[object],
    temperature: float,
    settle: SettleGroup | None = None,
    ready: Callable[[], Awaitable[None]] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Group]:
    """Plays and scores `group_size` rollouts of each task, all at once.

    Args:
        score: scores one rollout and never raises; see `rft.scoring.ScoringRunner.score`.
        tasks_P: the step's tasks; one may occur twice, and is then sampled with other seeds.
        seed_parts: what, beside a rollout's own place, makes its seed: the run's seed and the step.
        settle: a last look at a whole group's scores, taken as soon as the group is complete.
        ready: awaited before anything is begun: while scores cannot be had, the engine shall not make more
            to be scored; see `rft.scoring.ScoringRunner.ready`.
        on_progress: called with (scored, total) after each rollout.

    Returns:
        One group per task, in the order of `tasks_P`, members in the order of their numbers.

    Raises EngineError when the engine dies; everything still running is cancelled first.
    """
    if ready is not None:
        await ready()
    total = len(tasks_P) * group_size
    done = 0

    async def one(task: Task, group_id: str, index: int) -> tuple[Rollout, Score]:
        nonlocal done
        seed = rollout_seed(*seed_parts, group_id, index)  # the group, as one task may stand in a step twice
        # What is left of a rollout that nobody could finish.
        rollout = Rollout(
            f"{group_id}/{index}", group_id, task, tuple(task.messages), stop="tool_error", seed=seed
        )
        try:
            rollout = await player.play(
                task, group_id=group_id, index=index, seed=seed, temperature=temperature
            )
            verdict = await score(rollout)
        except EnvironmentFailure as error:
            verdict = Score.failed(error.kind, f"environment: {error}")
        except EndpointError as error:
            verdict = Score.failed(error.kind, f"endpoint: {error.detail}")
        done += 1
        on_progress(done, total)
        return rollout, verdict

    async def group_of(task: Task, group_id: str, members: Sequence[asyncio.Task[_Member]]) -> Group:
        rollouts_G, scores_G = zip(*[await member for member in members], strict=True)
        return Group(group_id, task, rollouts_G, await settle(rollouts_G, scores_G) if settle else scores_G)

    try:
        # Held until every rollout has made its first request, the engine starts them all in one batch: the
        # same batch every time, so that the same recipe and seed sample the same tokens.
        async with asyncio.TaskGroup() as together, _held(player.held()):
            groups_P = []
            for number, task in enumerate(tasks_P):
                group_id = f"{number}-{task.id}"
                members = [together.create_task(one(task, group_id, index)) for index in range(group_size)]
                groups_P.append(together.create_task(group_of(task, group_id, members)))
            await asyncio.sleep(0)
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]  # the others say the same
        raise first from first.__cause__
    return [group.result() for group in groups_P]


@asynccontextmanager
async def _held(hold: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Enters `hold` in a thread, as that may take a whole engine step, and this loop has others to serve."""
    entering = asyncio.create_task(asyncio.to_thread(hold.__enter__))

    def release(entered: asyncio.Task[None]) -> None:
        if not entered.cancelled() and entered.exception() is None:
            hold.__exit__(None, None, None)

    try:
        await asyncio.shield(entering)
        yield
    finally:
        # A thread cannot be cancelled: when the wait for it was, the engine is let go as soon as it is held.
        if entering.done():
            release(entering)
        else:
            entering.add_done_callback(release)

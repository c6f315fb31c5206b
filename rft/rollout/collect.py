"""Tasks become scored groups. A rollout is scored the moment it ends, while others still generate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

from rft.errors import EndpointError, EnvironmentFailure
from rft.rollout.lockstep import Lockstep
from rft.rollout.play import AnyPlayer, MyTurn, at_once, rollout_seed
from rft.types import Group, Rollout, Score, Task

ScoreOne = Callable[[Rollout], Awaitable[Score]]
SettleGroup = Callable[[Sequence[Rollout], Sequence[Score]], Awaitable[Sequence[Score]]]
OnProgress = Callable[[int, int], None]

Member = tuple[Rollout, Score]


@dataclass(frozen=True)
class Asked:
    """A group to be played, or to be played on after it was cut off.

    >>> Asked(0, Task("a", "1"), seed_parts=(7, 3)).id
    '0-a'
    """

    number: int
    """Its place among the groups that are played together; the same task may stand in several."""
    task: Task
    seed_parts: tuple[object, ...]
    """What, beside a rollout's own place, makes its seed: the run's seed and the step it was begun in."""
    done: Mapping[int, Member] = field(default_factory=dict)
    """Members that are played and scored already, by their index."""

    @property
    def id(self) -> str:
        """Of the group, and the beginning of its rollouts'."""
        return f"{self.number}-{self.task.id}"


@dataclass(frozen=True)
class Played:
    """What became of the groups that were asked for, both in the order of asking."""

    groups: list[Group]
    cut: list[Asked]
    """Not finished when there was enough; with the members that were."""


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
    on_progress: OnProgress = lambda done, total: None,
) -> list[Group]:
    """Plays and scores `group_size` rollouts of each task, all at once.

    Args:
        tasks_P: the step's tasks; one may occur twice, and is then sampled with other seeds.
        seed_parts: what, beside a rollout's own place, makes its seed.

    Returns one group per task, in the order of `tasks_P`. Else as `collect_asked`.
    """
    asked_P = [Asked(number, task, tuple(seed_parts)) for number, task in enumerate(tasks_P)]
    played = await collect_asked(
        player,
        score,
        asked_P,
        group_size=group_size,
        temperature=temperature,
        settle=settle,
        ready=ready,
        on_progress=on_progress,
    )
    return played.groups


async def collect_asked(
    player: AnyPlayer,
    score: ScoreOne,
    asked_P: Sequence[Asked],
    *,
    group_size: int,
    temperature: float,
    settle: SettleGroup | None = None,
    ready: Callable[[], Awaitable[None]] | None = None,
    on_progress: OnProgress = lambda done, total: None,
    enough: Callable[[Sequence[Group]], bool] = lambda finished: False,
) -> Played:
    """Plays and scores groups, all at once, until they are finished or there is enough.

    Args:
        score: scores one rollout and never raises; see `rft.scoring.ScoringRunner.score`.
        asked_P: groups with numbers of their own; members that are done are taken as they are.
        settle: a last look at a whole group's scores, taken as soon as the group is complete.
        ready: awaited before anything is begun: while scores cannot be had, the engine shall not make more
            to be scored; see `rft.scoring.ScoringRunner.ready`.
        on_progress: called with (scored, total) after each rollout.
        enough: asked after each group, with those finished so far; once it says so, whatever still runs is
            cancelled, requests and evaluations alike, and has ended when this returns.

    Returns:
        Groups in the order of `asked_P`, members in the order of their numbers.

    Raises EngineError when the engine dies; everything still running is cancelled first.
    """
    if ready is not None:
        await ready()
    seats = len(asked_P) * group_size
    table = Lockstep(seats, lambda: _held(player.held())) if player.lockstep else None
    scored = 0

    async def one(asked: Asked, index: int, seat: int) -> Member:
        nonlocal scored
        my_turn = at_once if table is None else partial(table.turn, seat)
        try:
            member = asked.done.get(index) or await _play(player, asked, index, temperature, my_turn)
        finally:
            if table is not None:
                table.leave(seat)
        rollout, verdict = member
        if verdict is None:
            verdict = await score(rollout)
        scored += 1
        on_progress(scored, seats)
        return rollout, verdict

    async def group_of(asked: Asked, members: Sequence[asyncio.Task[Member]]) -> Group:
        rollouts_G, scores_G = zip(*[await member for member in members], strict=True)
        settled_G = await settle(rollouts_G, scores_G) if settle else scores_G
        return Group(asked.id, asked.task, rollouts_G, settled_G)

    members_PG: list[list[asyncio.Task[Member]]] = []
    groups_P: list[asyncio.Task[Group]] = []
    try:
        async with asyncio.TaskGroup() as together:
            # Held until every rollout has made its first request, the engine starts them all in one batch:
            # the same batch every time, so that the same recipe and seed sample the same tokens.
            async with _held(nullcontext() if table else player.held()):
                for place, asked in enumerate(asked_P):
                    first = place * group_size
                    members = [
                        together.create_task(one(asked, index, first + index)) for index in range(group_size)
                    ]
                    members_PG.append(members)
                    groups_P.append(together.create_task(group_of(asked, members)))
                await asyncio.sleep(0)
            finished: list[Group] = []
            for group in asyncio.as_completed(groups_P):
                finished.append(await group)
                if enough(finished):
                    break
            for task in (*groups_P, *(member for members in members_PG for member in members)):
                task.cancel()
    except BaseExceptionGroup as errors:
        first_error = errors.exceptions[0]  # the others say the same
        raise first_error from first_error.__cause__
    cut = [
        replace(asked, done={index: m.result() for index, m in enumerate(members) if not m.cancelled()})
        for asked, members, group in zip(asked_P, members_PG, groups_P, strict=True)
        if group.cancelled()
    ]
    return Played([group.result() for group in groups_P if not group.cancelled()], cut)


async def _play(
    player: AnyPlayer, asked: Asked, index: int, temperature: float, my_turn: MyTurn
) -> tuple[Rollout, Score | None]:
    """One rollout; with a score only when nobody could finish it."""
    seed = rollout_seed(*asked.seed_parts, asked.id, index)  # the group, as a task may stand in a step twice
    try:
        rollout = await player.play(
            asked.task, group_id=asked.id, index=index, seed=seed, temperature=temperature, my_turn=my_turn
        )
        return rollout, None
    except EnvironmentFailure as error:
        failed = Score.failed(error.kind, f"environment: {error}")
    except EndpointError as error:
        failed = Score.failed(error.kind, f"endpoint: {error.detail}")
    task = asked.task
    left = Rollout(f"{asked.id}/{index}", asked.id, task, tuple(task.messages), stop="tool_error", seed=seed)
    return left, failed


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

"""A step's rollouts: in order, overlapped with their scoring, and one end for all when the engine dies."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import Any

import pytest

from rft.engine.base import Completion
from rft.engine.scripted import ScriptedEngine
from rft.environment import Environment, Observation, Step
from rft.errors import EngineError, EnvironmentFailure
from rft.models.tiny import tiny_tokenizer
from rft.recipe.schema import RolloutSpec
from rft.rollout.collect import collect
from rft.rollout.conversation import ChatTemplate
from rft.rollout.play import Player
from rft.types import Group, Message, Rollout, Score, Task

TOKENIZER = tiny_tokenizer()


class OneQuestion(Environment):
    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation(task.prompt)

    async def step(self, action: Message) -> Step:
        return Step(done=True)


def tasks(*names: str) -> list[Task]:
    return [Task(name, (Message("user", name),)) for name in names]


def make(engine: Any, environment: type[Environment] = OneQuestion, **spec: Any) -> Player:
    return Player(engine, ChatTemplate(TOKENIZER), environment, RolloutSpec(**spec), max_total_tokens=1000)


async def half(rollout: Rollout) -> Score:
    return Score(0.5, reason=rollout.id)


def gather(
    player: Player, names: list[Task], score: Any = half, group_size: int = 2, **options: Any
) -> list[Group]:
    step = collect(player, score, names, group_size=group_size, seed_parts=(7, 0), temperature=1.0, **options)
    return asyncio.run(asyncio.wait_for(step, 20))


def test_nothing_is_begun_while_scores_cannot_be_had():
    begun: list[int] = []
    engine = ScriptedEngine(TOKENIZER, lambda *_: "x")

    async def ready() -> None:
        await asyncio.sleep(0.01)
        begun.append(len(engine.prompts))

    groups = gather(make(engine), tasks("a"), ready=ready)
    assert begun == [0]
    assert groups[0].valid == [True, True]


def test_groups_keep_the_order_of_tasks_and_members_that_of_their_numbers():
    class Backwards(ScriptedEngine):
        """Later requests are answered first."""

        async def generate(self, token_ids: Any, sampling: Any, *, adapter: str | None = None) -> Completion:
            place = len(self.prompts)
            answer = super().generate(token_ids, sampling, adapter=adapter)
            await asyncio.sleep(0.05 - 0.005 * place)
            return await answer

    progress: list[tuple[int, int]] = []
    groups = gather(
        make(Backwards(TOKENIZER, lambda *_: "x")),
        tasks("b", "a", "b"),
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert [group.id for group in groups] == ["0-b", "1-a", "2-b"]
    assert [[rollout.id for rollout in group.rollouts] for group in groups] == [
        ["0-b/0", "0-b/1"],
        ["1-a/0", "1-a/1"],
        ["2-b/0", "2-b/1"],
    ]
    assert all(
        score.reason == rollout.id
        for g in groups
        for score, rollout in zip(g.scores, g.rollouts, strict=True)
    )
    assert progress == [(done, 6) for done in range(1, 7)]


def test_every_rollout_has_a_seed_of_its_own_and_the_same_one_next_time():
    def seeds() -> list[int | None]:
        groups = gather(make(ScriptedEngine(TOKENIZER, lambda *_: "x")), tasks("a", "b", "a"))
        return [rollout.seed for group in groups for rollout in group.rollouts]

    assert len(set(seeds())) == 6
    assert seeds() == seeds()


def test_a_rollout_is_scored_while_others_still_generate():
    scored = asyncio.Event()

    class SlowB(ScriptedEngine):
        async def generate(self, token_ids: Any, sampling: Any, *, adapter: str | None = None) -> Completion:
            if "b" in TOKENIZER.decode(token_ids).split("\n")[1]:
                await scored.wait()  # b is answered only after a has been scored
            return await super().generate(token_ids, sampling, adapter=adapter)

    async def score(rollout: Rollout) -> Score:
        if rollout.task.id == "a":
            scored.set()
        return Score(1.0)

    groups = gather(make(SlowB(TOKENIZER, lambda *_: "x")), tasks("b", "a"), score)
    assert all(score.ok for group in groups for score in group.scores)


def test_a_slow_scorer_holds_nobody_else_up():
    others_done = asyncio.Event()
    count = 0

    async def score(rollout: Rollout) -> Score:
        nonlocal count
        if rollout.id == "0-a/0":
            await others_done.wait()  # the first is scored only after all the others are
        else:
            count += 1
            if count == 3:
                others_done.set()
        return Score(1.0)

    groups = gather(make(ScriptedEngine(TOKENIZER, lambda *_: "x")), tasks("a", "b"), score)
    assert sum(score.ok for group in groups for score in group.scores) == 4


def test_first_requests_all_arrive_while_the_engine_is_held():
    class Held(ScriptedEngine):
        holding = False
        seen: list[bool]

        @contextmanager
        def paused(self):
            self.holding = True
            yield
            self.holding = False

        async def generate(self, token_ids: Any, sampling: Any, *, adapter: str | None = None) -> Completion:
            self.seen.append(self.holding)
            return await super().generate(token_ids, sampling, adapter=adapter)

    engine = Held(TOKENIZER, lambda *_: "x")
    engine.seen = []
    gather(make(engine), tasks("a", "b"), group_size=4)
    assert engine.seen == [True] * 8
    assert not engine.holding


def test_an_environment_that_fails_masks_its_rollout_and_no_other():
    class Fragile(OneQuestion):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            if task.id == "bad":
                raise EnvironmentFailure("no sandbox")
            if task.id == "wrong":
                raise KeyError("fee")
            return await super().reset(task, seed=seed)

    groups = gather(make(ScriptedEngine(TOKENIZER, lambda *_: "x"), Fragile), tasks("bad", "good", "wrong"))
    bad, good, wrong = groups
    assert [score.failure.kind for score in bad.scores if score.failure] == ["sandbox", "sandbox"]
    assert bad.scores[0].failure is not None and bad.scores[0].failure.detail == "environment: no sandbox"
    assert [rollout.stop for rollout in bad.rollouts] == ["tool_error", "tool_error"]
    assert [score.failure.kind for score in wrong.scores if score.failure] == ["bug", "bug"]
    assert all(score.ok for score in good.scores)


def test_a_dead_engine_ends_the_step_with_its_own_error_and_its_cause():
    closed = []

    class Closing(OneQuestion):
        async def close(self) -> None:
            closed.append(self)

    class Dying(ScriptedEngine):
        async def generate(self, token_ids: Any, sampling: Any, *, adapter: str | None = None) -> Completion:
            if "b" in TOKENIZER.decode(token_ids).split("\n")[1]:
                raise EngineError("the engine died") from RuntimeError("the device is gone")
            await asyncio.sleep(60)
            raise AssertionError("not cancelled")

    with pytest.raises(EngineError, match="the engine died") as error:
        gather(make(Dying(TOKENIZER, lambda *_: "x"), Closing), tasks("a", "b"))
    assert str(error.value.__cause__) == "the device is gone"
    assert len(closed) == 4


def test_settling_sees_whole_groups():
    async def drop_all(rollouts: Any, scores: Any) -> list[Score]:
        assert [rollout.id for rollout in rollouts] == ["0-a/0", "0-a/1"]
        return [Score.skip("the group is incomplete") for _ in scores]

    groups = gather(make(ScriptedEngine(TOKENIZER, lambda *_: "x")), tasks("a"), settle=drop_all)
    assert [score.status for score in groups[0].scores] == ["skipped", "skipped"]


def test_a_group_is_settled_as_soon_as_it_is_complete():
    settled: list[str] = []
    done = asyncio.Event()

    async def score(rollout: Rollout) -> Score:
        if rollout.id == "1-slow/1":  # the last member of the other group waits for the first group
            await done.wait()
        return Score(0.5)

    async def settle(rollouts: Any, scores: Any) -> list[Score]:
        settled.append(rollouts[0].group_id)
        done.set()
        return list(scores)

    groups = gather(
        make(ScriptedEngine(TOKENIZER, lambda *_: "x")), tasks("quick", "slow"), score, settle=settle
    )
    assert settled == ["0-quick", "1-slow"]
    assert [group.id for group in groups] == ["0-quick", "1-slow"]


def test_a_group_is_settled_with_the_members_that_failed():
    class Fragile(OneQuestion):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            raise EnvironmentFailure("no sandbox")

    async def settle(rollouts: Any, scores: Any) -> list[Score]:
        assert [score.failure.kind for score in scores] == ["sandbox", "sandbox"]
        return list(scores)

    (group,) = gather(make(ScriptedEngine(TOKENIZER, lambda *_: "x"), Fragile), tasks("a"), settle=settle)
    assert group.valid == [False, False]


def test_a_step_given_up_while_it_waits_for_the_hold_lets_the_engine_go():
    entered, may_enter, released = threading.Event(), threading.Event(), threading.Event()

    class SlowToHold(ScriptedEngine):
        @contextmanager
        def paused(self):
            entered.set()
            may_enter.wait(20)
            yield
            released.set()

    async def give_up() -> None:
        player = make(SlowToHold(TOKENIZER, lambda *_: "x"))
        step = asyncio.create_task(
            collect(player, half, tasks("a"), group_size=2, seed_parts=(), temperature=1.0)
        )
        await asyncio.to_thread(entered.wait, 20)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        may_enter.set()
        assert await asyncio.to_thread(released.wait, 20)

    asyncio.run(give_up())

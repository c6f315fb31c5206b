"""Turns taken together: one batch a turn, in a fixed order, whoever's environment was quick."""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager
from typing import Any

import pytest
from supply_cases import TOKENIZER, tasks

from rft.engine.base import Completion, Sampling
from rft.engine.scripted import ScriptedEngine
from rft.environment import Environment, Observation, Step
from rft.errors import EngineError, EnvironmentFailure
from rft.recipe.schema import RolloutSpec
from rft.rollout.collect import collect
from rft.rollout.conversation import ChatTemplate
from rft.rollout.play import Player
from rft.types import Group, Message, Rollout, Score, Task


class Chatty(Environment):
    """Answers after a while of its own, never the same; ends after as many turns as the task's number."""

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self.left = 1 + int(task.id[1:]) % 3
        await asyncio.sleep(random.random() / 100)
        return Observation(task.prompt)

    async def step(self, action: Message) -> Step:
        await asyncio.sleep(random.random() / 100)
        self.left -= 1
        return Step((Message("user", "And?"),), done=self.left == 0)


class Batches(ScriptedEngine):
    """Remembers which requests came while it was held, and fails when any comes otherwise."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER, lambda prompt, sampling: f"{sampling.seed}"[:4])
        self.batches: list[list[int | None]] = []
        self.holding = False
        self.open = 0

    @contextmanager
    def paused(self):
        assert self.open == 0, "a turn began while another was under way"
        self.holding = True
        self.batches.append([])
        yield
        self.holding = False

    async def generate(self, token_ids: Any, sampling: Sampling, *, adapter: str | None = None) -> Completion:
        assert self.holding
        self.batches[-1].append(sampling.seed)
        self.open += 1
        await asyncio.sleep(random.random() / 100)
        self.open -= 1
        return await super().generate(token_ids, sampling, adapter=adapter)


async def half(rollout: Rollout) -> Score:
    return Score(0.5)


def play(engine: Any, environment: type[Environment] = Chatty, names: int = 4, **spec: Any) -> list[Group]:
    made = RolloutSpec(lockstep=True, **spec)
    player = Player(engine, ChatTemplate(TOKENIZER), environment, made, max_total_tokens=1000)
    step = collect(player, half, tasks(names), group_size=2, seed_parts=(7, 0), temperature=1.0)
    return asyncio.run(asyncio.wait_for(step, 20))


def test_each_turn_is_one_batch_in_the_order_of_seats_however_long_environments_take():
    first, second = Batches(), Batches()
    groups = play(first)
    assert [len(group.rollouts[0].turns) for group in groups] == [1, 2, 3, 1]
    # 8 conversations take a first turn; t1 and t2 a second; t2 a third
    assert [len(batch) for batch in first.batches] == [8, 4, 2]
    seeds = [rollout.seed for group in groups for rollout in group.rollouts]
    assert first.batches[0] == seeds
    play(second)
    assert second.batches == first.batches


def test_without_lockstep_turns_come_as_they_may():
    made = RolloutSpec()
    engine = Batches()
    player = Player(engine, ChatTemplate(TOKENIZER), Chatty, made, max_total_tokens=1000)
    step = collect(player, half, tasks(4), group_size=2, seed_parts=(7, 0), temperature=1.0)
    with pytest.raises(AssertionError):
        asyncio.run(asyncio.wait_for(step, 20))


def test_who_fails_or_takes_too_long_is_not_waited_for():
    class Fragile(Chatty):
        async def step(self, action: Message) -> Step:
            if self.left == 3:
                raise EnvironmentFailure("gone", kind="bug")
            if self.left == 2:
                await asyncio.sleep(3600)
            return await super().step(action)

    t0, t1, t2, t3 = play(Batches(), Fragile, timeout_s=0.5)
    assert t0.valid == t3.valid == [True, True]
    assert [score.failure.kind for score in (*t1.scores, *t2.scores) if score.failure] == ["timeout"] * 2 + [
        "bug"
    ] * 2


def test_an_environment_tried_again_keeps_its_seat():
    failed: set[int] = set()

    class Once(Chatty):
        async def reset(self, task: Task, *, seed: int) -> Observation:
            if seed not in failed:
                failed.add(seed)
                raise EnvironmentFailure("not yet", kind="sandbox")
            return await super().reset(task, seed=seed)

    engine = Batches()
    assert all(group.valid == [True, True] for group in play(engine, Once))
    assert [len(batch) for batch in engine.batches] == [8, 4, 2]


def test_an_engine_that_cannot_be_held_ends_the_step():
    class Dead(Batches):
        @contextmanager
        def paused(self):
            raise EngineError("the engine died")
            yield

    with pytest.raises(EngineError, match="the engine died"):
        play(Dead())


@pytest.mark.engine
def test_the_real_engine_samples_the_same_tokens_twice(engine, tiny_tokenizer):
    spec = RolloutSpec(lockstep=True, max_new_tokens=12)

    def tokens() -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        engine.forget_prompts()
        player = Player(engine, ChatTemplate(tiny_tokenizer), Chatty, spec, max_total_tokens=1000)
        step = collect(player, half, tasks(6), group_size=4, seed_parts=(7, 0), temperature=1.0)
        groups = asyncio.run(asyncio.wait_for(step, 60))
        return [(t.token_ids, t.logprobs) for g in groups for r in g.rollouts for t in r.turns]

    first = tokens()
    assert len(first) > 24  # some took several turns
    assert tokens() == first

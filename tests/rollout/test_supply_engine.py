"""Cutting off and playing ahead on the real engine: nothing is left in it, and no answer mixes weights."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from supply_cases import Grader, OneQuestion, tasks, teaches

from rft.data.order import TaskOrder
from rft.recipe.schema import RolloutSpec
from rft.rollout.conversation import ChatTemplate
from rft.rollout.play import Player
from rft.rollout.selection import Selection
from rft.rollout.supply import Supply

pytestmark = pytest.mark.engine


def selection(engine: Any, tokenizer: Any, **spec: Any) -> Selection:
    made = RolloutSpec(group_size=2, **spec)
    player = Player(engine, ChatTemplate(tokenizer), OneQuestion, made, max_total_tokens=2000)
    order = TaskOrder(tasks(12), seed=0, shuffle=False)
    return Selection(player, Grader(), order, made, groups_per_step=3, seed=7, teaches=teaches)


def test_requests_that_are_cut_off_leave_the_engine(engine, tiny_tokenizer):
    # What it says is random, so of 9 groups some end long before the others.
    chosen = selection(engine, tiny_tokenizer, oversample=3, max_new_tokens=1500)
    supplied = asyncio.run(asyncio.wait_for(chosen.play(0), 120))
    assert len(supplied.groups) == 3 and supplied.metrics["groups/cut"] == 6
    deadline = time.monotonic() + 10
    while engine.call(engine.llm.has_unfinished_requests):
        assert time.monotonic() < deadline, "aborted requests are still in the engine"
    assert engine._streams == {}


def test_one_step_off_samples_what_the_synchronous_run_samples_one_version_older(engine, tiny_tokenizer):
    def sampled(one_step_off: bool) -> list[Any]:
        supply = Supply(
            selection(engine, tiny_tokenizer, one_step_off=one_step_off, max_new_tokens=12),
            steps=3,
            one_step_off=one_step_off,
            refresh=engine.forget_prompts,
        )
        seen = []
        for step in range(3):
            supplied = supply.step(step)
            supply.wait()  # the weights stay as they are here, only their version moves
            with engine.paused():
                engine.weights_changed(step + 1)
            turns = [r.turns[0] for group in supplied.groups for r in group.rollouts]
            seen.append([(turn.token_ids, turn.logprobs) for turn in turns])
            assert {span[0] for turn in turns for span in turn.weight_versions} == {
                max(0, step - one_step_off)
            }
        supply.close()
        return seen

    before = engine.version
    try:
        with engine.paused():
            engine.weights_changed(0)
        synchronous = sampled(False)
        with engine.paused():
            engine.weights_changed(0)
        assert sampled(True) == synchronous
    finally:
        with engine.paused():
            engine.weights_changed(before)

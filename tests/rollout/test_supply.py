"""One step off: the next step's groups beside this one's update; a killed run goes on the same."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from supply_cases import TOKENIZER, Grader, make, names

from rft.engine.base import Completion, Sampling
from rft.engine.scripted import ScriptedEngine
from rft.errors import EngineError
from rft.rollout.selection import age
from rft.rollout.supply import Supply

STEPS = 5


class Versioned(ScriptedEngine):
    """Answers once it may."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER, lambda prompt, sampling: str(sampling.seed))
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = threading.Event()
        self.open = 0

    async def generate(self, token_ids: Any, sampling: Sampling, *, adapter: str | None = None) -> Completion:
        self.open += 1
        self.asked.set()
        try:
            while not self.may_answer.is_set():
                await asyncio.sleep(0.001)
            return await super().generate(token_ids, sampling, adapter=adapter)
        finally:
            self.open -= 1


def supply(engine: Any = None, *, one_step_off: bool = True, grader: Any = None, **spec: Any) -> Supply:
    selection = make(grader or Grader(), engine=engine or Versioned(), one_step_off=one_step_off, **spec)
    return Supply(selection, steps=STEPS, one_step_off=one_step_off)


def told(supplied: Any) -> list[Any]:
    """What training sees of a step, weights aside."""
    return [
        (r.id, r.seed, r.text, float(score))
        for group in supplied.groups
        for r, score in zip(group.rollouts, group.scores, strict=True)
    ]


def ages(supplied: Any, step: int) -> set[int]:
    return {age(rollout, step) for group in supplied.groups for rollout in group.rollouts}


def test_groups_are_those_of_the_synchronous_run_and_one_step_old():
    engine, plain = Versioned(), supply(one_step_off=False)
    ahead = supply(engine)
    for step in range(STEPS):
        supplied = ahead.step(step)
        assert told(supplied) == told(plain.step(step))
        assert ages(supplied, step) == ({0} if step == 0 else {1})
        ahead.wait()  # before the weights are written
        engine.version = step + 1
    assert supplied.metrics["rollout/staleness"] == 1.0


def test_the_next_step_plays_while_this_one_is_updated_and_a_write_waits_for_it():
    engine = Versioned()
    ahead = supply(engine)
    ahead.step(0)
    ahead.wait()
    engine.may_answer.clear()
    engine.asked.clear()
    ahead.step(1)  # returns although step 2 gets no answers yet
    assert engine.asked.wait(10)
    written = threading.Event()

    def write() -> None:
        ahead.wait()
        engine.version = 9
        written.set()

    writing = threading.Thread(target=write)
    writing.start()
    assert not written.wait(0.1)
    engine.may_answer.set()
    assert written.wait(10)
    writing.join()
    supplied = ahead.step(2)
    assert 9 not in {rollout.weight_version for group in supplied.groups for rollout in group.rollouts}
    assert supplied.metrics["time/waited_s"] > 0.05


def test_evaluations_of_the_next_step_overlap_too():
    may_score, scoring = threading.Event(), threading.Event()

    class SlowJudge(Grader):
        async def score(self, rollout: Any) -> Any:
            while not may_score.is_set():
                scoring.set()
                await asyncio.sleep(0.001)
            return await super().score(rollout)

    ahead = supply(grader=SlowJudge())
    may_score.set()
    ahead.step(0)
    ahead.wait()
    may_score.clear()
    ahead.step(1)
    assert scoring.wait(10)
    may_score.set()
    assert len(ahead.step(2).groups) == 3
    ahead.close()


def test_nothing_is_played_beyond_the_last_step():
    engine = Versioned()
    ahead = supply(engine)
    for step in range(STEPS):
        ahead.step(step)
    ahead.wait()
    assert len(engine.prompts) == STEPS * 3 * 2


@pytest.mark.parametrize("spec", [{}, {"refill_rounds": 2}])
@pytest.mark.parametrize("one_step_off", [True, False])
@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_restored_supply_goes_on_as_the_one_that_was_never_stopped(spec, one_step_off, killed_after):
    def fresh() -> Supply:
        return supply(one_step_off=one_step_off, grader=Grader(constant={"t1", "t4", "t5"}), **spec)

    whole, first = fresh(), fresh()
    wanted = [whole.step(step) for step in range(STEPS)]
    for step in range(killed_after):
        first.step(step)
    state = json.loads(json.dumps(first.state()))
    first.close()
    second = fresh()
    second.restore(state)
    for step in range(killed_after, STEPS):
        supplied = second.step(step)
        assert told(supplied) == told(wanted[step])
        assert names(supplied.set_aside) == names(wanted[step].set_aside)


def test_a_fork_takes_over_the_tasks_and_nothing_that_was_played():
    first = supply()
    first.step(0)
    state = first.state()
    engine = Versioned()
    fork = supply(engine)
    fork.restore(state, is_fork=True)
    supplied = fork.step(1)
    assert names(supplied.groups) == ["t6", "t7", "t8"]  # step 1 of the first run had been played
    assert supplied.metrics["rollout/staleness"] == 1.0 and len(engine.prompts) >= 6
    fork.close()


def test_what_is_played_ahead_starts_on_a_fresh_cache_each_time():
    refreshed: list[int] = []
    engine = Versioned()
    selection = make(Grader(), engine=engine, one_step_off=True)
    ahead = Supply(
        selection, steps=3, one_step_off=True, refresh=lambda: refreshed.append(len(engine.prompts))
    )
    for step in range(3):
        ahead.step(step)
    assert refreshed == [0, 6, 12]  # before each step's first request, with nothing under way


def test_closing_cancels_what_is_played_ahead():
    engine = Versioned()
    ahead = supply(engine)
    ahead.step(0)
    ahead.wait()
    engine.may_answer.clear()
    engine.asked.clear()
    ahead.step(1)
    assert engine.asked.wait(10)
    ahead.close()
    assert engine.open == 0
    ahead.close()  # nothing left to do


def test_an_engine_that_dies_ahead_is_told_at_the_write():
    class Dying(Versioned):
        async def generate(self, *args: Any, **options: Any) -> Completion:
            if len(self.prompts) >= 6:
                raise EngineError("the engine died")
            return await super().generate(*args, **options)

    ahead = supply(Dying())
    ahead.step(0)
    with pytest.raises(EngineError, match="the engine died"):
        ahead.wait()
    ahead.close()

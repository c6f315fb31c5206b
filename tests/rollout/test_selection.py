"""Which groups a step trains on: refilled, over-sampled, played on, none too old."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supply_cases import TOKENIZER, Grader, make, names, tasks, teaches

from rft.engine.base import Completion, Sampling
from rft.engine.scripted import ScriptedEngine
from rft.rollout.selection import Selection, Supplied, age
from rft.types import Group, Rollout, Score, Turn


class Slow(ScriptedEngine):
    """Never answers some tasks; counts the requests it has been left with."""

    def __init__(self, never: set[str]) -> None:
        super().__init__(TOKENIZER, lambda *_: "x")
        self.never = never
        self.open = 0

    async def generate(self, token_ids: Any, sampling: Sampling, *, adapter: str | None = None) -> Completion:
        self.open += 1
        try:
            if TOKENIZER.decode(token_ids).split("\n")[1].split("<")[0] in self.never:
                await asyncio.sleep(3600)
            return await super().generate(token_ids, sampling, adapter=adapter)
        finally:
            self.open -= 1


def play(selection: Selection, step: int = 0) -> Supplied:
    return asyncio.run(asyncio.wait_for(selection.play(step), 20))


# --- refilling ----------------------------------------------------------------------------------------


def test_without_refilling_a_step_takes_its_tasks_as_they_come():
    supplied = play(make(Grader(constant={"t0", "t1", "t2"})))
    assert names(supplied.groups) == ["t0", "t1", "t2"]
    assert supplied.set_aside == [] and supplied.metrics == {}


def test_groups_without_variance_are_replaced_by_the_next_tasks_and_still_recorded():
    grader = Grader(constant={"t1", "t3"}, masked={"t2"})
    supplied = play(make(grader, refill_rounds=3))
    # t1 and t2 teach nothing: t3 and t4 are asked; t3 neither: t5
    assert names(supplied.groups) == ["t0", "t4", "t5"]
    assert names(supplied.set_aside) == ["t1", "t2", "t3"]
    assert names(supplied.played) == ["t0", "t4", "t5", "t1", "t2", "t3"]
    assert supplied.metrics == {"groups/refilled": 3, "groups/missing": 0}
    assert [group.id for group in supplied.groups] == ["0-t0", "4-t4", "5-t5"]


def test_equal_rewards_teach_nothing_whatever_their_mean():
    class Full(Grader):
        async def score(self, rollout: Rollout) -> Score:
            return Score(1.0 if rollout.task.id == "t0" else float(rollout.id.endswith("1")))

    assert names(play(make(Full(), refill_rounds=1)).groups) == ["t1", "t2", "t3"]


def test_after_the_last_round_the_step_is_made_up_and_that_is_said_once():
    notes: list[str] = []
    selection = make(
        Grader(constant={f"t{index}" for index in range(1, 24)}), refill_rounds=2, notes=notes, num_tasks=24
    )
    first = play(selection)
    # t0 teaches; t1 t2, then t3 t4, then t5 t6 do not; two of them make the step up
    assert names(first.groups) == ["t0", "t1", "t2"]
    assert names(first.set_aside) == ["t3", "t4", "t5", "t6"]
    assert first.metrics == {"groups/refilled": 4, "groups/missing": 2}
    second = play(selection, 1)
    assert second.metrics["groups/missing"] > 0
    assert len(notes) == 1 and notes[0].startswith("step 1: 2 of 3 groups teach nothing even after 2 further")


@given(st.sets(st.integers(0, 11)), st.integers(0, 4), st.integers(1, 4))
def test_a_refilled_step_has_its_size_wastes_nothing_that_teaches_and_stops_in_time(constant, rounds, wanted):
    grader = Grader(constant={f"t{index}" for index in constant})
    supplied = play(make(grader, refill_rounds=rounds, groups=wanted))
    assert len(supplied.groups) == wanted
    assert not any(teaches(group) for group in supplied.set_aside) or rounds == 0
    assert len(supplied.played) <= wanted * (1 + rounds)
    assert sorted(grader.scored) == sorted(r.id for group in supplied.played for r in group.rollouts)
    if rounds:
        missing = wanted - sum(teaches(group) for group in supplied.groups)
        assert supplied.metrics["groups/missing"] == missing
        assert supplied.metrics["groups/refilled"] == len(supplied.set_aside)


def test_the_same_seed_gives_the_same_groups_and_each_rollout_its_own_seed():
    def played() -> list[int | None]:
        supplied = play(make(Grader(constant={"t1"}), refill_rounds=2), step=4)
        return [rollout.seed for group in supplied.played for rollout in group.rollouts]

    assert played() == played()
    assert len(set(played())) == 8


# --- over-sampling ------------------------------------------------------------------------------------


def test_what_is_not_finished_when_there_is_enough_is_cut_off_and_nothing_is_left_running():
    engine, grader = Slow({"t1", "t4"}), Grader()
    supplied = play(make(grader, engine=engine, oversample=5 / 3))
    assert names(supplied.groups) == ["t0", "t2", "t3"]
    assert supplied.metrics == {"groups/cut": 2}
    assert engine.open == 0
    assert not any("t1" in name or "t4" in name for name in grader.scored)


def test_an_evaluation_that_is_cut_off_is_cancelled():
    ended: list[str] = []

    class Stuck(Grader):
        async def score(self, rollout: Rollout) -> Score:
            if rollout.task.id == "t0":
                try:
                    await asyncio.sleep(3600)
                finally:
                    ended.append(rollout.id)
            return await super().score(rollout)

    supplied = play(make(Stuck(), oversample=4 / 3))
    assert names(supplied.groups) == ["t1", "t2", "t3"]
    assert sorted(ended) == ["0-t0/0", "0-t0/1"]


def test_groups_that_finish_beyond_what_is_needed_are_set_aside():
    supplied = play(make(Grader(), oversample=2))
    assert len(supplied.groups) == 3
    assert 3 <= len(supplied.played) <= 6
    assert supplied.metrics["groups/cut"] == 3


def test_with_refilling_only_groups_that_teach_are_enough():
    grader = Grader(constant={"t0", "t1", "t2"})
    supplied = play(make(grader, engine=Slow({"t6"}), oversample=7 / 3, refill_rounds=1))
    assert names(supplied.groups) == ["t3", "t4", "t5"]
    assert names(supplied.set_aside) == ["t0", "t1", "t2"]


# --- playing on ---------------------------------------------------------------------------------------


class HalfSlow(Slow):
    """Answers the first of a slow task's two members."""

    async def generate(self, token_ids: Any, sampling: Sampling, *, adapter: str | None = None) -> Completion:
        first = TOKENIZER.decode(token_ids) not in [TOKENIZER.decode(ids) for ids in self.prompts]
        if first:
            return await ScriptedEngine.generate(self, token_ids, sampling, adapter=adapter)
        return await super().generate(token_ids, sampling, adapter=adapter)


def test_cut_groups_are_played_on_with_their_seeds_and_finished_members_are_not_paid_for_twice():
    engine, grader = HalfSlow({"t0"}), Grader()
    selection = make(grader, engine=engine, oversample=4 / 3, keep_partial=True)
    first = play(selection)
    assert names(first.groups) == ["t1", "t2", "t3"] and first.metrics["groups/cut"] == 1
    engine.never, engine.version = set(), 1
    grader.scored.clear()
    second = play(selection, 1)
    assert names(second.groups)[0] == "t0" and len(second.groups) == 3
    t0 = second.groups[0]
    assert t0.id == "0-t0" and "0-t0/0" not in grader.scored and "0-t0/1" in grader.scored
    assert [rollout.weight_version for rollout in t0.rollouts] == [0, 1]
    fresh = play(make(Grader()))
    assert [one.seed for one in t0.rollouts] == [one.seed for one in fresh.groups[0].rollouts]
    assert second.metrics["rollout/stale_frac"] == 0
    assert second.metrics["rollout/staleness"] == pytest.approx(1 / 6)


def test_members_that_are_too_old_are_played_again():
    engine, grader = HalfSlow({"t0"}), Grader()
    selection = make(grader, engine=engine, oversample=4 / 3, keep_partial=True, max_staleness=1)
    play(selection)
    engine.never, engine.version = set(), 2
    grader.scored.clear()
    later = play(selection, 2)  # the member that finished in step 0 is two versions old
    assert {"0-t0/0", "0-t0/1"} <= set(grader.scored)
    assert all(age(rollout, 2) == 0 for group in later.groups for rollout in group.rollouts)
    assert later.metrics["rollout/stale_frac"] == pytest.approx(1 / 7)


def spare(version: int) -> Group:
    task = tasks(12)[11]
    turn = Turn((1,), (2,), (-1.0,), "stop", ((version, 0, 1),))
    pair = [Rollout(f"5-t11/{i}", "5-t11", task, task.messages, (turn,)) for i in range(2)]
    return Group("5-t11", task, pair, [Score(0.0), Score(1.0)])


def test_a_group_that_was_too_many_is_used_next_unless_it_is_too_old():
    from rft.rollout.stored import group_to_text

    selection = make(Grader(), oversample=2, keep_partial=True)
    state = selection.state() | {"spare": [group_to_text(spare(0), selection.tasks.number)]}
    selection.restore(state)
    assert names(play(selection, 1).groups)[0] == "t11"
    selection.restore(state)
    supplied = play(selection, 2)
    assert "t11" not in names(supplied.groups)
    assert names(supplied.set_aside)[0] == "t11"
    assert supplied.metrics["rollout/stale_frac"] == pytest.approx(2 / 8)


def test_a_restored_selection_goes_on_with_what_was_cut():
    engine, grader = HalfSlow({"t0"}), Grader()
    selection = make(grader, engine=engine, oversample=4 / 3, keep_partial=True)
    play(selection)
    state = json.loads(json.dumps(selection.state()))
    later = Grader()
    restored = make(later, oversample=4 / 3, keep_partial=True)
    restored.restore(state)
    supplied = play(restored, 1)
    assert names(supplied.groups)[0] == "t0"
    assert "0-t0/0" not in later.scored and "0-t0/1" in later.scored
    assert supplied.groups[0].task == tasks(1)[0]

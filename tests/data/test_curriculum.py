"""Tasks that teach little are asked less often, none is forgotten, and a restored run goes on the same."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft.data.curriculum import Curriculum
from rft.data.order import TaskOrder
from rft.errors import DataError
from rft.recipe.schema import CurriculumSpec
from rft.types import Group, Rollout, Score, Task


def tasks(n):
    return [Task(f"t{index}", str(index)) for index in range(n)]


def make(n, *, seed=0, low=0.1, high=0.9, keep=0.25, reward_range=(0.0, 1.0)):
    spec = CurriculumSpec(low=low, high=high, keep=keep)
    return Curriculum(TaskOrder(tasks(n), seed=seed), spec, reward_range, seed=seed)


def judged(task, *rewards):
    scores = [Score.skip("unreadable") if reward is None else Score(reward) for reward in rewards]
    rollouts = [Rollout(f"g/{i}", "g", task, task.messages) for i in range(len(scores))]
    return Group("g", task, rollouts, scores)


def ids(taken):
    return [task.id for task in taken]


shares = st.dictionaries(st.integers(0, 7), st.floats(0, 1), max_size=8)


@given(st.integers(1, 12), st.integers(0, 5), shares)
def test_every_task_is_asked_at_first_in_the_plain_order(n, seed, seen):
    curriculum = make(n, seed=seed, keep=0.0)
    assert curriculum.take(n) == TaskOrder(tasks(n), seed=seed).take(n)


@given(st.integers(1, 8), st.integers(0, 5), shares, st.integers(0, 30), st.integers(1, 20))
def test_a_restored_curriculum_goes_on_exactly_where_it_stopped(n, seed, seen, before, after):
    curriculum = make(n, seed=seed)
    curriculum.observe([judged(Task(f"t{index}", ""), share) for index, share in seen.items()])
    curriculum.take(before)
    restored = make(n, seed=seed)
    restored.restore(json.loads(json.dumps(curriculum.state())))
    assert restored.take(after) == curriculum.take(after)
    assert restored.metrics() == curriculum.metrics()


@given(st.integers(2, 8), st.integers(0, 5), st.floats(0, 1))
def test_however_little_is_left_to_learn_somebody_is_asked(n, seed, keep):
    curriculum = make(n, seed=seed, keep=keep)
    curriculum.observe([judged(task, 1.0) for task in tasks(n)])
    assert len(curriculum.take(3 * n)) == 3 * n


def test_easy_and_hard_tasks_come_as_often_as_keep_says():
    curriculum = make(4, keep=0.25)
    curriculum.observe(
        [judged(task, reward) for task, reward in zip(tasks(4), (0.0, 1.0, 0.5, 0.1), strict=True)]
    )
    taken = ids(curriculum.take(4000))
    # t2 and t3 (0.1 is not below low) come in every epoch, the other two in a quarter of them: 2.5 an epoch.
    assert taken.count("t2") / 4000 == pytest.approx(1 / 2.5, abs=0.02)
    assert taken.count("t3") / 4000 == pytest.approx(1 / 2.5, abs=0.02)
    assert taken.count("t0") / 4000 == pytest.approx(0.25 / 2.5, abs=0.02)
    assert taken.count("t1") / 4000 == pytest.approx(0.25 / 2.5, abs=0.02)


def test_with_keep_0_what_is_mastered_is_not_asked_again():
    curriculum = make(3, keep=0.0)
    curriculum.observe([judged(Task("t0", ""), 1.0), judged(Task("t1", ""), 0.5)])
    assert set(ids(curriculum.take(20))) == {"t1", "t2"}


def test_a_task_that_has_become_harder_comes_back():
    curriculum = make(2, keep=0.0)
    curriculum.observe([judged(Task("t0", ""), 1.0)])
    assert set(ids(curriculum.take(6))) == {"t1"}
    curriculum.observe([judged(Task("t0", ""), 1.0, 0.0)])
    assert set(ids(curriculum.take(6))) == {"t0", "t1"}


def test_shares_are_of_the_evaluators_range_and_masked_members_do_not_count():
    curriculum = make(4, reward_range=(-1.0, 3.0))
    curriculum.observe(
        [
            judged(Task("t0", ""), -1.0, None, -0.8),  # (-0.9 + 1) / 4 = 0.025: hard
            judged(Task("t1", ""), 3.0, 2.9),  # (2.95 + 1) / 4 = 0.9875: easy
            judged(Task("t2", ""), 1.0),  # 0.5
            judged(Task("t3", ""), None, None),  # says nothing
        ]
    )
    assert curriculum.metrics() == {
        "curriculum/hard_frac": pytest.approx(1 / 3),
        "curriculum/easy_frac": pytest.approx(1 / 3),
        "curriculum/between_frac": pytest.approx(1 / 3),
    }


def test_before_anything_was_asked_all_shares_are_0():
    assert set(make(3).metrics().values()) == {0.0}


@pytest.mark.parametrize("reward_range", [(0.0, math.inf), (-math.inf, 0.0), (1.0, 1.0)])
def test_a_range_without_an_end_has_no_shares(reward_range):
    with pytest.raises(DataError, match="lowest and a highest"):
        make(3, reward_range=reward_range)


def test_a_plain_orders_state_restores_a_curriculum_that_has_seen_nothing_and_the_other_way_round():
    order = TaskOrder(tasks(5), seed=0)
    order.take(7)
    curriculum = make(5)
    curriculum.observe([judged(Task("t0", ""), 1.0)])
    curriculum.restore(order.state())
    assert curriculum.take(10) == order.take(10)
    again = TaskOrder(tasks(5), seed=0)
    again.restore(curriculum.state())
    assert again.take(3) == order.take(3)

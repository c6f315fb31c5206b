"""Rollouts in any order are scored with their own kind, and settled when all of them are in."""

from __future__ import annotations

import asyncio

import pytest

from rft import EvaluatorError, GroupEvaluator, Message, Rollout, Task, evaluator
from rft.errors import UserError
from rft.scoring.compose import Part, Weighted
from rft.scoring.groups import score_groups


def rollout(group: str, text: str) -> Rollout:
    task = Task(group, (Message("user", "?"),))
    return Rollout(f"{group}/{text}", group, task, (*task.messages, Message("assistant", text)))


def values(groups) -> dict[str, list[float | None]]:
    return {group.id: [score.value for score in group.scores] for group in groups}


MIXED = [rollout("b", "1"), rollout("a", "3"), rollout("b", "2"), rollout("a", "4")]


def test_groups_come_in_order_of_appearance_and_members_in_theirs():
    groups = score_groups(lambda text: float(text) / 10, MIXED)
    assert [group.id for group in groups] == ["b", "a"]
    assert values(groups) == {"b": [0.1, 0.2], "a": [0.3, 0.4]}
    assert [member.text for member in groups[0].rollouts] == ["1", "2"]


def test_members_of_one_group_are_judged_together():
    class Longest(GroupEvaluator):
        async def evaluate_group(self, rollouts):
            best = max(float(one.text) for one in rollouts)
            return [float(float(one.text) == best) for one in rollouts]

    assert values(score_groups(Longest(), MIXED)) == {"b": [0.0, 1.0], "a": [0.0, 1.0]}


def test_an_optional_part_that_failed_for_one_counts_for_none_of_its_group():
    @evaluator
    def flaky(text):
        if text == "1":
            raise EvaluatorError("server", "HTTP 503")
        return 0.0

    both = Weighted(size=evaluator(lambda text: float(text) / 10), flaky=Part(flaky, optional=True))
    assert values(score_groups(both, MIXED)) == {"b": [0.1, 0.2], "a": [0.15, 0.2]}


def test_the_evaluator_is_set_up_and_closed_once_also_in_a_running_loop():
    calls: list[str] = []

    class Counted(GroupEvaluator):
        async def setup(self):
            calls.append("setup")

        async def evaluate_group(self, rollouts):
            return [0.5] * len(rollouts)

        async def close(self):
            calls.append("close")

    async def cell():
        return score_groups(Counted(), MIXED)

    assert values(asyncio.run(cell())) == {"b": [0.5, 0.5], "a": [0.5, 0.5]}
    assert calls == ["setup", "close"]


def test_what_is_not_an_evaluator_is_refused():
    with pytest.raises(UserError, match="must be an instance of rft.Evaluator"):
        score_groups(GroupEvaluator, MIXED)

"""Both orders, ties for disagreement, and who meets whom."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from rft import EvaluatorError, Limits, PairwiseEvaluator, Score
from rft.scoring.runner import ScoringRunner
from rft.types import Cost, Message, Rollout, Task


class Larger(PairwiseEvaluator):
    """Prefers the larger number, as surely as `sure` says; counts what it is asked."""

    limits = Limits(attempts=2, backoff_s=0)

    def __init__(self, schedule="round_robin", sure=lambda first, second: 1.0):
        super().__init__()
        self.schedule = schedule
        self.sure = sure
        self.asked = []

    async def compare(self, first, second):
        a, b = float(first.text), float(second.text)
        self.asked.append((a, b))
        return 0.5 if a == b else 0.5 + 0.5 * self.sure(a, b) * (1 if a > b else -1)


def group(*numbers, reference=None):
    task = Task("t", (Message("user", "?"),), reference)
    return [
        Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", str(n))))
        for i, n in enumerate(numbers)
    ]


def judged(judge, rollouts):
    async def run():
        async with ScoringRunner(judge) as runner:
            scores = await asyncio.gather(*map(runner.score, rollouts))
            return await runner.settle(rollouts, scores)

    return asyncio.run(run())


def test_everyone_meets_everyone_in_both_orders():
    judge = Larger()
    got = judged(judge, group(3, 1, 2))
    assert [s.value for s in got] == [1.0, 0.0, 0.5]
    assert got[2].reason == "1 of 2 points"
    assert sorted(judge.asked) == sorted(itertools.permutations([1.0, 2.0, 3.0], 2))


def test_points_follow_how_sure_the_judge_is():
    got = judged(Larger(sure=lambda first, second: 0.5), group(2, 1))
    assert [s.value for s in got] == [0.75, 0.25]


def test_orders_that_disagree_are_a_tie_and_counted():
    class First(PairwiseEvaluator):
        """Prefers whoever is shown first, but for the one that says 9."""

        async def compare(self, first, second):
            return 0.0 if second.text == "9" else 1.0

    got = judged(First(), group(1, 2, 9))
    assert [s.value for s in got] == [0.25, 0.25, 1.0]
    assert [s.metrics["disagreement"] for s in got] == [0.5, 0.5, 0.0]
    assert [s.metrics["first_bias"] for s in got] == [0.5, 0.5, 0.0]


def test_a_tie_in_one_order_is_no_disagreement():
    class Half(PairwiseEvaluator):
        def compare(self, first, second):
            return 1.0 if (first.text, second.text) == ("2", "1") else 0.5

    got = judged(Half(), group(2, 1))
    assert [s.value for s in got] == [0.75, 0.25]
    assert got[0].metrics["disagreement"] == 0.0


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 13])
def test_swiss_finds_the_best_and_the_order_of_few_in_few_rounds(size):
    judge = Larger("swiss")
    numbers = list(range(size))
    got = judged(judge, group(*numbers))
    assert got[-1].value == max(s.value for s in got)
    assert got[0].value == min(s.value for s in got)
    rounds = (size - 1).bit_length()
    assert len(judge.asked) == 2 * (size // 2) * rounds
    assert len(set(judge.asked)) == len(judge.asked)  # nobody met twice


@pytest.mark.parametrize("size", [3, 4, 5, 6, 7, 8, 9, 16, 31])
def test_among_equals_nobody_meets_twice_or_sits_out_twice(size):
    judge = Larger("swiss", sure=lambda first, second: 0.0)
    numbers = list(range(size))
    got = judged(judge, group(*numbers))
    assert {s.value for s in got} == {0.5}
    assert len(set(judge.asked)) == len(judge.asked)
    games = {n: sum(n in pair for pair in judge.asked) // 2 for n in numbers}
    assert min(games.values()) >= (size - 1).bit_length() - 1


def test_whoever_sits_out_a_round_gets_half_a_point_for_it():
    got = judged(Larger("swiss"), group(1, 2, 3))
    assert sum(s.value for s in got) == pytest.approx(3 * 0.5)
    assert {s.reason.partition(" ")[2] for s in got} == {"of 2 points"}


def test_everyone_meets_the_reference_only():
    judge = Larger("baseline")
    got = judged(judge, group(1, 2, 3, reference=2))
    assert [s.value for s in got] == [0.0, 0.5, 1.0]
    assert len(judge.asked) == 6


def test_a_baseline_of_ones_own():
    class AgainstTheFirst(Larger):
        def baseline(self, rollouts):
            return rollouts[0]

    assert [s.value for s in judged(AgainstTheFirst("baseline"), group(2, 1, 3))] == [0.5, 0.0, 1.0]


def test_a_task_without_a_reference_cannot_be_a_baseline():
    got = judged(Larger("baseline"), group(1, 2))
    assert [s.failure.kind for s in got] == ["bug", "bug"]
    assert "task t has none" in got[0].failure.detail


def test_each_comparison_has_its_own_retries():
    class Flaky(Larger):
        async def compare(self, first, second):
            points = await super().compare(first, second)
            if self.asked.count(self.asked[-1]) == 1:
                raise EvaluatorError("server", "HTTP 503", retryable=True)
            return points

    judge = Flaky()
    got = judged(judge, group(3, 1, 2))
    assert [s.value for s in got] == [1.0, 0.0, 0.5]
    assert {s.attempts for s in got} == {2}
    assert len(judge.asked) == 12


@pytest.mark.parametrize("schedule", ["round_robin", "swiss", "baseline"])
def test_a_comparison_that_cannot_be_made_masks_all(schedule):
    class Down(Larger):
        async def compare(self, first, second):
            await super().compare(first, second)
            if "3" in (first.text, second.text):
                raise EvaluatorError("judge_parse", "no verdict in the answer")
            return 0.5

    got = judged(Down(schedule), group(1, 2, 3, 4, reference=0))
    assert [(s.status, s.failure.kind) for s in got] == [("failed", "judge_parse")] * 4


@pytest.mark.parametrize("points", [1.5, -0.1, float("nan")])
def test_points_beyond_0_and_1_are_a_broken_promise(points):
    class Loud(PairwiseEvaluator):
        range = (-10, 10)

        async def compare(self, first, second):
            return points

    assert {s.failure.kind for s in judged(Loud(), group(1, 2))} == {"bad_response"}


def test_costs_add_up():
    class Paid(Larger):
        async def compare(self, first, second):
            return Score(await super().compare(first, second), cost=Cost(usd=0.25, calls=1))

    got = judged(Paid(), group(1, 2, 3))
    assert sum((s.cost for s in got), Cost()) == Cost(usd=1.5, calls=6)

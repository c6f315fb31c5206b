"""An evaluation that was made before a kill is not made again; everything else is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from rft.evaluator import GroupEvaluator, evaluator
from rft.scoring.cache import ScoreCache, asked_anew
from rft.scoring.compose import Weighted
from rft.scoring.journal import Journal
from rft.scoring.runner import ScoringRunner
from rft.types import Cost, Message, Rollout, Score, Task

PROMPT = (Message("user", "2+2?"),)


def rollout(text="4", index=0, **changes):
    said = Rollout(
        f"g/{index}", "g", Task("t", PROMPT, "4"), (*PROMPT, Message("assistant", text)), seed=index
    )
    return replace(said, **changes)


def counting(*verdicts, deterministic=False):
    """An evaluator that gives these verdicts in turn, and the answers it was asked about."""
    calls, left = [], iter(verdicts)

    @evaluator(deterministic=deterministic)
    async def judge(text):
        calls.append(text)
        verdict = next(left)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    return judge, calls


def scored(judge, path, *rollouts, cache=None, anew=False):
    """(scores, what the runner says it cost) in a process of its own, so to speak."""

    async def run():
        journal = Journal(path)
        try:
            async with ScoringRunner(judge, journal=journal, cache=cache) as runner:
                if anew:
                    with asked_anew():
                        return [await runner.score(one) for one in rollouts], runner.cost
                scores = [await runner.score(one) for one in rollouts]
                return await runner.settle(rollouts, scores), runner.cost
        finally:
            journal.close()

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


def test_a_verdict_comes_back_as_it_was_price_included(path):
    judge, calls = counting(Score(0.25, reason="so", cost=Cost(0.5, 1, 10, 2)), 0.75)
    (first,), cost = scored(judge, path, rollout())
    (again,), cost_again = scored(judge, path, rollout())
    assert calls == ["4"]
    assert again == first and first.value == 0.25 and first.attempts == 1
    assert cost_again == cost == Cost(0.5, 1, 10, 2)


@pytest.mark.parametrize(
    "other",
    [
        rollout(text="5"),
        rollout(index=1),
        rollout(seed=7),
        rollout(env={"x": 1}),
    ],
)
def test_another_rollout_is_another_evaluation(path, other):
    judge, calls = counting(0.25, 0.75)
    scored(judge, path, rollout())
    (score,), _ = scored(judge, path, other)
    assert score.value == 0.75 and len(calls) == 2


def test_the_same_words_of_later_weights_are_judged_again(path):
    # Greedy held-out answers come again at every evaluation, and each time the judge is asked anew.
    judge, calls = counting(0.25, 0.75)
    scored(judge, path, rollout())
    assert scored(judge, path, rollout(weight_version=10))[0][0].value == 0.75


def test_what_had_no_number_is_judged_again(path):
    judge, calls = counting(ValueError("broken"), 0.75)
    (first,), _ = scored(judge, path, rollout())
    (again,), _ = scored(judge, path, rollout())
    assert not first.ok and again.value == 0.75


def test_golden_cases_reach_the_evaluator_itself(path):
    judge, calls = counting(0.25, 0.5, 0.75)
    scored(judge, path, rollout())
    assert scored(judge, path, rollout(), anew=True)[0][0].value == 0.5
    assert scored(judge, path, rollout())[0][0].value == 0.25


def test_a_group_that_was_judged_is_not_judged_again(path):
    calls = []

    class Ranks(GroupEvaluator):
        deterministic = False

        async def evaluate_group(self, rollouts):
            calls.append(len(rollouts))
            return [index / 10 for index in range(len(rollouts))]

    group = [rollout(index=index) for index in range(3)]
    first, _ = scored(Ranks(), path, *group)
    again, _ = scored(Ranks(), path, *group)
    assert calls == [3]
    assert [score.value for score in again] == [score.value for score in first] == [0.0, 0.1, 0.2]


def test_the_parts_of_an_evaluation_that_a_kill_cut_short_are_not_paid_for_again(path):
    paid, calls = counting(Score(0.5, cost=Cost(usd=1.0)), 0.9)
    broken, _ = counting(ValueError("killed here"), 1.0)
    scored(Weighted(paid=paid, broken=broken), path, rollout())
    (score,), _ = scored(Weighted(paid=paid, broken=broken), path, rollout())
    assert len(calls) == 1 and score.value == 0.75


def test_an_evaluator_that_is_asked_several_times_answers_each_time(path):
    judge, calls = counting(0.2, 0.4, 0.9)
    (score,), _ = scored(Weighted(one=judge, two=judge, three=judge), path, rollout())
    assert len(calls) == 3 and score.value == pytest.approx(0.5)
    (again,), _ = scored(Weighted(one=judge, two=judge, three=judge), path, rollout())
    assert len(calls) == 3 and again.parts == score.parts


def test_an_uninterrupted_run_is_not_answered_by_its_own_journal(path):
    judge, calls = counting(0.2, 0.4)
    scores, _ = scored(judge, path, rollout(), rollout())
    assert [score.value for score in scores] == [0.2, 0.4]


def test_a_deterministic_evaluator_that_costs_nothing_is_simply_asked_again(path):
    judge, calls = counting(0.25, 0.25, deterministic=True)
    scored(judge, path, rollout())
    scored(judge, path, rollout())
    assert len(calls) == 2


def test_the_price_of_a_deterministic_evaluation_stays_on_the_account_though_the_cache_knows_it(
    path, tmp_path
):
    judge, calls = counting(Score(0.25, cost=Cost(usd=1.0)), deterministic=True)
    for _ in range(2):
        cache = ScoreCache(tmp_path / "scores.sqlite", worth_s=0.0)
        (score,), cost = scored(judge, path, rollout(), cache=cache)
        cache.close()
        assert (cost.usd, score.cached) == (1.0, False)
    assert len(calls) == 1

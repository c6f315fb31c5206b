"""Group evaluators: when they judge, whom they see, and what a missing member means for the others."""

from __future__ import annotations

import asyncio

import pytest

from rft import Evaluator, EvaluatorError, GroupEvaluator, Limits, Score
from rft.scoring.compose import Part, Weighted
from rft.scoring.runner import ScoringRunner
from rft.types import Cost, Message, Rollout, Task


class Ranks(GroupEvaluator):
    """Scores by rank of the number in the text; what it was shown is kept."""

    limits = Limits(attempts=2, backoff_s=0)

    def __init__(self, answer=None):
        super().__init__()
        self.answer = answer or (lambda n: [sorted(n).index(one) / max(len(n) - 1, 1) for one in n])
        self.shown = []

    async def evaluate_group(self, rollouts):
        self.shown.append([int(r.text) for r in rollouts])
        return self.answer(self.shown[-1])


def group(*texts):
    task = Task("t", (Message("user", "?"),))
    return [
        Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", str(text))))
        for i, text in enumerate(texts)
    ]


DOWN = Score.failed("sandbox", "environment: no sandbox")


def judged(judge, *texts, lost=()):
    """Scores and settles one group; the members in `lost` failed before anyone could score them."""

    async def run():
        rollouts = group(*texts)
        async with ScoringRunner(judge) as runner:
            scores = [DOWN if i in lost else await runner.score(r) for i, r in enumerate(rollouts)]
            settled = await runner.settle(rollouts, scores)
            assert runner.cost == sum((s.cost for s in settled), Cost())
            return settled

    return asyncio.run(run())


def test_one_rollout_has_a_placeholder_until_its_group_is_complete():
    async def run():
        async with ScoringRunner(Ranks()) as runner:
            return await runner.score(group(1)[0])

    got = asyncio.run(run())
    assert (got.value, got.status, got.reason) == (None, "not_applicable", "judged with its group")
    assert got.evaluator == "Ranks"


def test_a_group_is_judged_once_and_in_order():
    judge = Ranks()
    got = judged(judge, 3, 1, 2)
    assert [s.value for s in got] == [1.0, 0.0, 0.5]
    assert judge.shown == [[3, 1, 2]]
    assert all(s.evaluator == "Ranks" and s.fingerprint == judge.fingerprint() for s in got)


def test_a_plain_method_gets_a_thread():
    class Plain(GroupEvaluator):
        def evaluate_group(self, rollouts):
            return asyncio.run(asyncio.sleep(0, [1.0] * len(rollouts)))  # impossible on a running loop

    assert [s.value for s in judged(Plain(), 1, 2)] == [1.0, 1.0]


def test_a_missing_member_is_not_shown_and_stays_what_it_was():
    judge = Ranks()
    got = judged(judge, 3, 1, 2, lost=[1])
    assert judge.shown == [[3, 2]]
    assert [s.value for s in got] == [1.0, None, 0.0]
    assert got[1] == DOWN


def test_too_few_to_compare_are_masked_and_nothing_is_asked():
    judge = Ranks()
    got = judged(judge, 3, 1, 2, lost=[0, 2])
    assert judge.shown == []
    assert [s.status for s in got] == ["failed", "skipped", "failed"]
    assert got[1].reason == "1 of 3 rollouts to compare, min_members is 2"
    judge.min_members = 1
    assert judged(judge, 3, 1, 2, lost=[0, 2])[1].value == 0.0
    judge.min_members = 4
    assert [s.status for s in judged(judge, 3, 1, 2)] == ["skipped"] * 3


def test_a_group_of_which_nobody_is_left_stays_as_it_is():
    assert judged(Ranks(), 1, 2, lost=[0, 1]) == [DOWN, DOWN]


@pytest.mark.parametrize(
    ("verdict", "status", "kind"),
    [
        (None, "failed", "bug"),
        (7.0, "failed", "bad_response"),
        (float("nan"), "failed", "bad_response"),
        (Score.failed("judge_parse", "unreadable"), "failed", "judge_parse"),
        (Score.skip("no gold"), "skipped", None),
    ],
)
def test_one_verdict_without_a_number_masks_the_whole_group(verdict, status, kind):
    got = judged(Ranks(lambda numbers: [1.0, verdict, 0.0]), 3, 1, 2)
    assert [(s.status, s.failure.kind if s.failure else None) for s in got] == [(status, kind)] * 3


@pytest.mark.parametrize("verdicts", [[1.0], [1.0] * 4, 0.5, "123", {"score": 1.0}])
def test_an_answer_of_the_wrong_length_is_a_bug(verdicts):
    got = judged(Ranks(lambda numbers: verdicts), 3, 1, 2)
    assert {s.failure.kind for s in got} == {"bug"}
    assert got[0].failure.detail.startswith("evaluate_group returned")


def test_a_failing_call_is_retried_and_then_masks_the_group():
    def down(numbers):
        raise EvaluatorError("server", "HTTP 503", retryable=True)

    judge = Ranks(down)
    got = judged(judge, 3, 1)
    assert [(s.failure.kind, s.attempts) for s in got] == [("server", 2)] * 2
    assert len(judge.shown) == 2


def test_the_cost_of_a_failed_try_is_counted_once():
    def flaky(numbers):
        cost = Cost(usd=0.25)
        if len(judge.shown) == 1:
            return [Score.failed("judge_parse", "?", retryable=True).stamped(cost=cost), 1.0]
        return [Score(1.0, cost=cost), Score(0.0)]

    judge = Ranks(flaky)
    assert sum((s.cost for s in judged(judge, 2, 1)), Cost()) == Cost(usd=0.5)


def test_a_settle_that_raises_is_a_bug_and_leaves_the_masked_alone():
    class Broken(Weighted):
        async def settle(self, rollouts, scores):
            raise KeyError("fee")

    got = judged(Broken(rank=Ranks()), 1, 2, lost=[1])
    assert got[0].failure.kind == "bug"
    assert got[1] == DOWN


# Composites with a part that judges groups


class Brief(Evaluator):
    """Half of what the number says; fails for 9, cannot judge 7."""

    async def evaluate(self, rollout):
        number = int(rollout.text)
        if number == 9:
            raise EvaluatorError("server", "HTTP 503")
        return Score.skip("no gold") if number == 7 else number / 10


def test_a_weighted_group_part_and_a_part_of_its_own():
    judge = Ranks()
    got = judged(Weighted(rank=judge, brief=Part(Brief(), weight=1.0)), 3, 1, 2)
    assert [s.value for s in got] == pytest.approx([(1.0 + 0.3) / 2, (0.0 + 0.1) / 2, (0.5 + 0.2) / 2])
    assert got[0].reason == "rank 1, brief 0.3"
    assert got[0].parts["rank"].evaluator == "Ranks"
    assert {s.evaluator for s in got} == {"Weighted"}
    assert judge.shown == [[3, 1, 2]]


def test_until_then_the_composite_waits_too():
    async def run():
        async with ScoringRunner(Weighted(rank=Ranks(), brief=Brief())) as runner:
            return [await runner.score(r) for r in group(3, 9)]

    waiting, failed = asyncio.run(run())
    assert (waiting.status, waiting.reason) == ("not_applicable", "judged with its group")
    assert waiting.parts["brief"].value == 0.3
    assert failed.failure.kind == "server"


def test_members_that_another_part_masked_are_not_compared():
    judge = Ranks()
    got = judged(Weighted(rank=judge, brief=Brief()), 9, 3, 7, 1, 2, lost=[4])
    assert judge.shown == [[3, 1]]
    assert [s.value for s in got] == [None, pytest.approx(0.65), None, pytest.approx(0.05), None]
    assert [s.status for s in got] == ["failed", "ok", "skipped", "ok", "failed"]
    assert got[4] == DOWN


def test_an_optional_part_that_failed_elsewhere_keeps_its_member_in_the_comparison():
    judge = Ranks()
    got = judged(Weighted(rank=judge, brief=Part(Brief(), optional=True)), 9, 3, 1)
    assert judge.shown == [[9, 3, 1]]
    assert [s.value for s in got] == [1.0, 0.5, 0.0]  # "brief" is left out for all
    assert got[1].reason == "rank 0.5, brief left out"


def test_a_required_group_part_that_fails_masks_the_group():
    got = judged(Weighted(rank=Ranks(lambda numbers: None), brief=Brief()), 3, 1)
    assert [(s.failure.kind, s.reason.partition(":")[0]) for s in got] == [("bug", "rank")] * 2
    assert got[0].parts["brief"].value == 0.3


@pytest.mark.parametrize("lost", [(), (1, 2)])
def test_an_optional_group_part_without_numbers_is_left_out(lost):
    def down(numbers):
        raise EvaluatorError("server", "HTTP 503")

    got = judged(Weighted(rank=Part(Ranks(down), optional=True), brief=Brief()), 3, 1, 2, lost=lost)
    assert [s.value for s in got] == [None if i in lost else n / 10 for i, n in enumerate([3, 1, 2])]
    assert got[0].reason == "rank left out, brief 0.3"


def test_composites_of_composites_settle_from_the_inside():
    judge = Ranks()
    inner = Weighted(rank=judge, brief=Brief())
    got = judged(Weighted(inner=inner, brief=Part(Brief(), weight=0.0)), 3, 9, 1)
    assert judge.shown == [[3, 1]]
    assert [s.value for s in got] == [pytest.approx(0.65), None, pytest.approx(0.05)]


def test_what_a_group_part_costs_is_the_composites_cost():
    paid = Ranks(lambda numbers: [Score(1.0, cost=Cost(usd=0.25)) for _ in numbers])
    got = judged(Weighted(rank=paid, brief=Brief()), 1, 2, 9)
    assert sum((s.cost for s in got), Cost()) == Cost(usd=0.5)

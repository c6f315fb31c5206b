"""Micro-batches: full or late, one call to the limits, and one member's fault is not the others'."""

from __future__ import annotations

import asyncio

import pytest

from rft import BatchEvaluator, EvaluatorError, Limits, Score
from rft.scoring.batching import Batcher
from rft.scoring.runner import ScoringRunner
from rft.types import Cost, Message, Rollout, Task


def rollout(text="!", index=0):
    task = Task("t", (Message("user", "?"),))
    return Rollout(f"t/{index}", "t", task, (*task.messages, Message("assistant", text)))


class Graded(BatchEvaluator):
    """Gives what `answer` makes of each batch, and keeps the batches."""

    batch_size = 4
    max_wait_s = 0.01
    limits = Limits(attempts=3, backoff_s=0)

    def __init__(self, answer=lambda texts: [0.5] * len(texts), **attributes):
        super().__init__()
        self.answer = answer
        self.batches = []
        vars(self).update(attributes)

    async def evaluate_batch(self, rollouts):
        self.batches.append([r.text for r in rollouts])
        return self.answer(self.batches[-1])


def score(judge, *texts):
    async def run():
        async with ScoringRunner(judge) as runner:
            return await asyncio.gather(*(runner.score(rollout(t, i)) for i, t in enumerate(texts)))

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_a_full_batch_goes_at_once_and_the_rest_when_it_has_waited():
    judge = Graded(lambda texts: [int(t) / 10 for t in texts])
    assert [s.value for s in score(judge, *map(str, range(6)))] == [i / 10 for i in range(6)]
    assert judge.batches == [["0", "1", "2", "3"], ["4", "5"]]


def test_a_full_batch_does_not_wait():
    judge = Graded(max_wait_s=3600.0)
    assert all(s.ok for s in score(judge, *"abcd"))


def test_a_lone_rollout_does_not_wait_for_ever():
    assert score(Graded(), "a")[0].value == 0.5


def test_a_plain_method_gets_a_thread():
    class Plain(BatchEvaluator):
        max_wait_s = 0.0

        def evaluate_batch(self, rollouts):
            return asyncio.run(asyncio.sleep(0, [1.0] * len(rollouts)))  # impossible on a running loop

    assert [s.value for s in score(Plain(), "a", "b")] == [1.0, 1.0]


def test_limits_count_batches():
    running = most = 0

    class Slow(Graded):
        async def evaluate_batch(self, rollouts):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.002)
            running -= 1
            return [0.5] * len(rollouts)

    judge = Slow(batch_size=2, limits=Limits(concurrency=2))
    assert all(s.ok for s in score(judge, *"abcdefgh"))
    assert most == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda texts: [0.5], "evaluate_batch returned 1 verdicts for 2 rollouts"),
        (lambda texts: 0.5, "evaluate_batch returned a float, not a list of verdicts"),
        (lambda texts: {"score": 0.5, "b": 1}, "evaluate_batch returned a dict, not a list of verdicts"),
        (lambda texts: None, "evaluate_batch returned a NoneType, not a list of verdicts"),
    ],
)
def test_an_answer_of_the_wrong_length_is_a_bug_for_all(answer, told):
    got = score(Graded(answer), "a", "b")
    assert [(s.failure.kind, s.failure.detail) for s in got] == [("bug", told)] * 2


def test_verdicts_stand_alone():
    got = score(Graded(lambda texts: [1.0, 7.0, None, Score.skip("no gold")]), *"abcd")
    assert [s.failure.kind if s.failure else s.status for s in got] == [
        "ok",
        "bad_response",
        "bug",
        "skipped",
    ]


def test_a_call_that_fails_fails_for_all_of_its_batch():
    def down(texts):
        raise EvaluatorError("server", "HTTP 503", retryable=True)

    judge = Graded(down)
    got = score(judge, "a", "b")
    assert [(s.failure.kind, s.attempts) for s in got] == [("server", 3)] * 2
    assert len(judge.batches) == 3


def test_a_retry_asks_only_for_those_that_may_come_good():
    def flaky(texts):
        again = len(judge.batches) > 1
        return [
            Score(0.25 if again else 1.0, cost=Cost(usd=0.5))
            if again or text != "b"
            else Score.failed("rate_limited", "HTTP 429", retryable=True).stamped(cost=Cost(usd=0.5))
            for text in texts
        ]

    judge = Graded(flaky)

    async def run():
        async with ScoringRunner(judge) as runner:
            got = await asyncio.gather(*(runner.score(rollout(t, i)) for i, t in enumerate("abc")))
            return got, runner.cost

    got, cost = asyncio.run(run())
    assert judge.batches == [["a", "b", "c"], ["b"]]
    assert [s.value for s in got] == [1.0, 0.25, 1.0]
    assert sum((s.cost for s in got), Cost()) == cost == Cost(usd=2.0)


def test_a_batch_that_is_not_sent_for_want_of_budget_fails_for_all():
    paid = Graded(lambda texts: [Score(1.0, cost=Cost(usd=1.0))] * len(texts), batch_size=2)
    paid.limits = Limits(concurrency=1, max_usd=1.0)
    got = score(paid, *"abcd")
    assert [s.failure.kind if s.failure else "ok" for s in got] == ["ok", "ok", "budget", "budget"]


def test_cancelling_one_leaves_the_others_be():
    judge = Graded()

    async def run():
        async with ScoringRunner(judge) as runner:
            first, second = (asyncio.create_task(runner.score(rollout(t))) for t in "ab")
            await asyncio.sleep(0)
            first.cancel()
            return await second, await asyncio.gather(first, return_exceptions=True)

    score_of_second, (of_first,) = asyncio.run(run())
    assert score_of_second.ok
    assert isinstance(of_first, asyncio.CancelledError)
    assert judge.batches == [["b"]]


def test_nobody_waits_for_ever_when_it_is_closed():
    async def run():
        async def never(rollouts):
            await asyncio.Event().wait()

        batcher = Batcher(never, 1, 0.0)
        waiting = asyncio.create_task(batcher.score(rollout()))
        late = asyncio.create_task(Batcher(never, 2, 3600.0).score(rollout()))
        await asyncio.sleep(0.01)
        await batcher.close()
        late.cancel()
        return await asyncio.gather(waiting, late, return_exceptions=True)

    for ended in asyncio.run(asyncio.wait_for(run(), 10)):
        assert isinstance(ended, asyncio.CancelledError)


def test_a_batch_evaluator_called_by_hand_makes_a_batch_of_one():
    assert asyncio.run(Graded().evaluate(rollout("a"))) == 0.5

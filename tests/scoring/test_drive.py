"""Retries, Retry-After, deadlines, budgets and outages, in virtual time."""

from __future__ import annotations

import asyncio
import random

import pytest

from rft.errors import EvaluatorError
from rft.evaluator import Evaluator, Limits
from rft.scoring.drive import Driver
from rft.types import Cost, Score

DOWN = Score.failed("server", "HTTP 503", retryable=True)
LIMITS = {"backoff_s": 0.0, "break_after": None}


def now():
    return asyncio.get_running_loop().time()


def driver(events=None, origin=None, max_usd=None, **limits):
    judge = Evaluator()
    judge.limits = Limits(**{**LIMITS, **limits})
    judge.origin = origin
    told = (
        (lambda name, fields: None) if events is None else lambda name, fields: events.append((name, fields))
    )
    return Driver(judge, told, max_usd)


def giving(*scores, took_s=0.0, log=None):
    """An attempt that gives these scores one after another, the last of them for ever."""
    left = list(scores)

    async def attempt(seconds):
        if log is not None:
            log.append((now(), seconds))
        await asyncio.sleep(took_s)
        return [left.pop(0) if len(left) > 1 else left[0]]

    return attempt


def asking(seconds):
    return Score.failed("rate_limited", "HTTP 429", retryable=True, retry_after_s=seconds)


def test_a_service_is_left_alone_for_as_long_as_it_asks(in_virtual_time):
    log = []
    (score,) = in_virtual_time(driver().call(giving(asking(7.0), Score(1.0), log=log)))
    assert [when for when, _ in log] == [0, 7]
    assert (score.value, score.attempts, score.latency_s) == (1.0, 2, 7.0)


def test_jitter_comes_on_top_of_what_it_asks(in_virtual_time, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    log = []
    in_virtual_time(driver(backoff_s=0.5).call(giving(asking(7.0), DOWN, DOWN, Score(1.0), log=log)))
    assert [when for when, _ in log] == [0, 7.5, 8.5, 10.5]


def test_it_is_not_asked_again_before_it_allows_that_when_the_deadline_is_earlier(in_virtual_time):
    log = []
    (score,) = in_virtual_time(driver(deadline_s=60).call(giving(asking(300.0), Score(1.0), log=log)))
    assert len(log) == 1
    assert score.failure.kind == "rate_limited"


def test_pauses_double_up_to_a_limit(in_virtual_time, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    log = []
    in_virtual_time(driver(attempts=9, backoff_s=1, deadline_s=1e9).call(giving(DOWN, log=log)))
    starts = [when for when, _ in log]
    assert [b - a for a, b in zip(starts, starts[1:], strict=False)] == [1, 2, 4, 8, 16, 20, 20, 20]


def test_pauses_stay_short_while_the_service_answers_others(in_virtual_time, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    log = []

    async def run():
        one = driver(attempts=6, backoff_s=1)
        unlucky = asyncio.create_task(one.call(giving(DOWN, log=log)))
        while not unlucky.done():
            await asyncio.sleep(0.1)
            await one.call(giving(Score(1.0)))

    in_virtual_time(run())
    starts = [when for when, _ in log]
    assert [b - a for a, b in zip(starts, starts[1:], strict=False)] == pytest.approx([1.0] * 5)


def test_the_last_attempt_gets_what_the_deadline_leaves(in_virtual_time):
    log = []
    slow = giving(DOWN, took_s=40, log=log)
    in_virtual_time(driver(timeout_s=50, deadline_s=100, attempts=9).call(slow))
    assert [seconds for _, seconds in log] == [50, 50, 20]


def test_a_pause_holds_no_slot(in_virtual_time):
    async def run():
        one = driver(concurrency=1)
        log = []
        await asyncio.gather(
            one.call(giving(asking(50.0), Score(1.0))), one.call(giving(Score(1.0), took_s=1, log=log))
        )
        return log[0][0]

    assert in_virtual_time(run()) == 0


def test_only_members_of_a_batch_that_failed_need_be_asked_again(in_virtual_time):
    asked, scores = [], {}

    async def batch(seconds):
        open_ones = [i for i in range(3) if not scores.get(i, DOWN).ok]
        asked.append(open_ones)
        scores.update({i: Score(1.0, cost=Cost(usd=1)) if i or len(asked) > 1 else DOWN for i in open_ones})
        return [scores[i] for i in range(3)]

    together = in_virtual_time(driver().call(batch))
    assert [score.value for score in together] == [1.0, 1.0, 1.0]
    assert asked == [[0, 1, 2], [0]]


def test_a_budget_holds_for_all_calls_and_names_the_sums(in_virtual_time):
    async def run():
        one = driver(max_usd=1.0)
        paid = Score(1.0, cost=Cost(usd=0.6))
        return [(await one.call(giving(paid)))[0] for _ in range(3)]

    scores = in_virtual_time(run())
    assert [score.ok for score in scores] == [True, True, False]
    assert scores[2].explain() == "failed (budget: 1.20 of 1 USD are spent)"


def test_an_outage_holds_work_back_and_costs_nobody_a_score(in_virtual_time):
    """Ten minutes without an answer, a thousand evaluations, three attempts each: all are scored."""
    events, calls = [], []

    async def attempt(seconds):
        calls.append(now())
        await asyncio.sleep(0.2)
        return [DOWN if 5 < now() < 605 else Score(1.0)]

    async def run():
        one = driver(
            events, concurrency=16, attempts=3, backoff_s=0.5, break_after=20, cool_s=30, patience_s=900
        )
        return await asyncio.gather(*(one.call(attempt) for _ in range(1000)))

    scores = [score for (score,) in in_virtual_time(run())]
    assert all(score.ok for score in scores)
    assert max(score.latency_s for score in scores) < 30
    during = [when for when in calls if 10 < when < 600]
    assert len(during) <= 600 / 30  # one probe each half minute
    (opened, why), (closed, how_long) = [one for one in events if one[0].startswith("breaker")]
    assert (opened, closed) == ("breaker_opened", "breaker_closed")
    assert why["why"].endswith("failures in a row, the last: failed (server: HTTP 503)")
    assert 590 < how_long["paused_s"] < 640


def test_an_outage_that_does_not_end_gives_up_with_the_kind_circuit_open(in_virtual_time):
    async def run():
        one = driver(concurrency=4, break_after=5, cool_s=10, patience_s=60)
        return await asyncio.gather(*(one.call(giving(DOWN, took_s=0.1)) for _ in range(50))), now()

    scores, ended = in_virtual_time(run())
    assert {score.failure.kind for (score,) in scores} == {"circuit_open"}
    assert 60 < ended < 61
    assert "failures in a row, the last: failed (server: HTTP 503)" in scores[-1][0].failure.detail


def test_evaluators_of_one_origin_share_slots_and_breaker_the_strictest_limits_hold(in_virtual_time):
    async def run():
        events = []
        wide = driver(events, origin="api.example", concurrency=8, break_after=9)
        narrow = driver(events, origin="api.example", concurrency=2, break_after=3)
        other = driver(events, origin="elsewhere", concurrency=8)
        assert wide.origin is narrow.origin is not other.origin
        running = most = 0

        async def attempt(seconds):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1
            return [Score(1.0)]

        await asyncio.gather(*(one.call(attempt) for one in (wide, narrow) for _ in range(6)))
        for one in (wide, narrow, wide):
            await one.call(giving(Score.failed("server", "HTTP 503")))
        return most, narrow.origin.breaker.is_open, other.origin.breaker.is_open, [name for name, _ in events]

    most, shared_open, other_open, names = in_virtual_time(run())
    assert (most, shared_open, other_open) == (2, True, False)
    assert names == ["origin_limits_tightened", "breaker_opened"]


def test_an_evaluator_without_an_origin_has_one_to_itself(in_virtual_time):
    async def run():
        return driver().origin is driver().origin

    assert not in_virtual_time(run())


def test_a_cancelled_call_gives_its_slot_back(in_virtual_time):
    async def run():
        one = driver(concurrency=1)
        hanging = asyncio.create_task(one.call(giving(Score(1.0), took_s=1e6)))
        await asyncio.sleep(1)
        hanging.cancel()
        return await one.call(giving(Score(0.5)))

    assert in_virtual_time(run())[0].value == 0.5


def test_what_a_service_asks_for_travels_from_the_error_to_the_failure():
    from rft.scoring.attribution import attribute

    error = EvaluatorError("rate_limited", "HTTP 429", retryable=True, retry_after_s=3.0)
    assert attribute(error).failure.retry_after_s == 3.0


@pytest.mark.parametrize("name", ["break_after", "cool_s", "patience_s"])
def test_limits_that_make_no_sense_are_refused(name):
    with pytest.raises(ValueError, match=f"Limits.{name} must be more than 0"):
        Limits(**{name: 0})

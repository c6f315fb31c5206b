"""The runner: whose fault a failure is, retries, limits, threads, and that no failure becomes a number."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time

import pytest

from rft.errors import EvaluatorError, UserError
from rft.evaluator import Evaluator, Limits, evaluator
from rft.scoring.runner import ScoringRunner
from rft.types import Cost, Message, Rollout, Score, Task

QUICK = Limits(attempts=3, backoff_s=0.0)


def rollout(text="4", index=0):
    task = Task("t", (Message("user", "2+2?"),), "4")
    return Rollout(f"t/{index}", "t", task, (*task.messages, Message("assistant", text)))


def score(judge, *rollouts, on_event=None):
    """Scores of `rollouts` (by default one); a single one comes back bare."""

    async def run():
        async with ScoringRunner(judge, on_event=on_event) as runner:
            return await asyncio.gather(*map(runner.score, rollouts or (rollout(),)))

    scores = asyncio.run(run())
    return scores[0] if len(scores) == 1 else scores


def returning(verdict, **options):
    @evaluator(limits=QUICK, **options)
    async def judge(text):
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    return judge


# Verdicts


@pytest.mark.parametrize(
    ("verdict", "value"),
    [(0.25, 0.25), (1, 1.0), (True, 1.0), (False, 0.0), ({"score": 0.5}, 0.5), (Score(0.5), 0.5)],
)
def test_every_kind_of_verdict_becomes_a_score(verdict, value):
    got = score(returning(verdict))
    assert got.value == value
    assert isinstance(got.value, float)
    assert got.status == "ok"


def test_the_other_keys_of_a_mapping_become_metrics():
    assert score(returning({"score": 0.5, "words": 3})).metrics == {"words": 3.0}


def test_scores_are_stamped_with_who_gave_them():
    judge = returning(0.5)
    got = score(judge)
    assert (got.evaluator, got.fingerprint, got.attempts) == ("judge", judge.fingerprint(), 1)
    assert got.latency_s > 0


def test_a_score_of_the_author_keeps_its_reason_and_parts():
    got = score(returning(Score(0.5, reason="half", parts={"a": Score(1.0)})))
    assert (got.reason, got.parts["a"].value) == ("half", 1.0)


@pytest.mark.parametrize("verdict", [Score.skip("no gold"), Score(None, "not_applicable")])
def test_a_decision_not_to_judge_passes_through(verdict):
    got = score(returning(verdict))
    assert (got.status, got.value, got.failure) == (verdict.status, None, None)


def test_the_declared_range_decides_what_is_in_range():
    assert score(returning(-0.5, range=(-1, 1))).value == -0.5
    assert score(returning(-0.5)).failure.kind == "bad_response"
    assert score(returning(Score(1.5))).failure.kind == "bad_response"


# Attribution


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (math.nan, "bad_response"),
        (math.inf, "bad_response"),
        (1.0001, "bad_response"),
        (10**400, "bad_response"),
        ({"score": math.nan}, "bad_response"),
        (None, "bug"),
        ("0.5", "bug"),
        ([1.0], "bug"),
        ({"value": 1.0}, "bug"),
        ({"score": 1.0, "note": "nice"}, "bug"),
        (KeyError("price"), "bug"),
        (ZeroDivisionError(), "bug"),
        (SystemExit(1), "bug"),
        (NotImplementedError(), "bug"),
        (FileNotFoundError("gold.txt"), "bug"),
        (UserError("wrong"), "bug"),
        (asyncio.CancelledError(), "bug"),
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "transport"),
        (OSError(28, "No space left on device"), "transport"),
        (EvaluatorError("judge_parse", "no verdict in the answer"), "judge_parse"),
    ],
)
def test_nothing_that_goes_wrong_becomes_a_number(outcome, kind):
    got = score(returning(outcome))
    assert got.failure.kind == kind
    assert got.value is None


def test_a_bug_is_told_with_class_message_and_place():
    def look_up(prices):
        return prices["pear"]

    @evaluator
    def judge(text):
        return look_up({"apple": 1})

    line = look_up.__code__.co_firstlineno + 1
    assert score(judge).failure.detail == f"KeyError: 'pear' (test_runner.py:{line})"


def test_a_mistake_inside_a_library_is_shown_at_the_authors_line():
    @evaluator
    def judge(text):
        import json

        return json.loads("{")

    assert f"(test_runner.py:{judge.function.__code__.co_firstlineno + 4})" in score(judge).failure.detail


def test_a_field_that_the_task_lacks_is_named():
    detail = score(evaluator(lambda text, colour: 1)).failure.detail
    assert detail.endswith("missing 1 required positional argument: 'colour'")


def test_forgetting_to_define_evaluate_says_so():
    assert "must define `evaluate(self, rollout)`" in score(type("Empty", (Evaluator,), {})()).failure.detail


@pytest.mark.parametrize(
    ("values", "kind"), [((0.5,), None), ((0.5, 0.5), "bug"), ((math.nan,), "bad_response"), ((), "bug")]
)
def test_turn_values_are_one_finite_number_per_assistant_turn(values, kind):
    failure = score(returning(Score(0.5, turn_values=values))).failure
    assert (failure and failure.kind) == kind


# Retries


def failing(times, error, then=1.0, limits=QUICK):
    left = [error] * times

    @evaluator(limits=limits)
    async def judge(text):
        if left:
            raise left.pop()
        return then

    return judge


def test_a_retryable_failure_is_tried_again_and_told():
    events = []
    down = EvaluatorError("server", "HTTP 503", retryable=True)
    got = score(
        failing(2, down),
        on_event=lambda name, fields: events.append((name, fields["attempt"], fields["why"])),
    )
    assert (got.value, got.attempts) == (1.0, 3)
    why = "failed (server: HTTP 503)"
    assert events == [("evaluator_retry", 1, why), ("evaluator_retry", 2, why)]


def test_attempts_are_bounded_and_the_last_failure_stands():
    got = score(failing(9, EvaluatorError("server", "HTTP 503", retryable=True)))
    assert (got.value, got.attempts, got.failure.kind) == (None, 3, "server")


@pytest.mark.parametrize("error", [EvaluatorError("server", "HTTP 501"), KeyError("x")])
def test_other_failures_are_not_tried_again(error):
    assert score(failing(1, error)).attempts == 1


def test_no_retry_is_begun_that_the_deadline_would_not_allow():
    limits = Limits(attempts=100, backoff_s=1e6, deadline_s=1e-9)
    assert score(failing(9, ConnectionError(), limits=limits)).attempts == 1


def test_cost_of_all_attempts_adds_up():
    verdicts = [
        Score.failed("server", "503", retryable=True).stamped(cost=Cost(usd=0.5)),
        Score(1.0, cost=Cost(usd=1)),
    ]

    @evaluator(limits=QUICK)
    async def judge(text):
        return verdicts.pop(0)

    assert score(judge).cost.usd == 1.5


def test_a_spent_budget_fails_what_comes_after_it_without_calling():
    calls = []

    @evaluator(limits=Limits(concurrency=1, max_usd=1.0))
    async def judge(text):
        calls.append(text)
        return Score(1.0, cost=Cost(usd=0.6))

    got = score(judge, *(rollout(index=i) for i in range(4)))
    assert [s.ok for s in got] == [True, True, False, False]
    assert got[2].failure.kind == "budget"
    assert len(calls) == 2


# Limits


@pytest.mark.parametrize("blocking", [False, True])
def test_no_more_evaluations_run_at_once_than_allowed(blocking):
    running, most = 0, 0
    lock = threading.Lock()

    def enter(step):
        nonlocal running, most
        with lock:
            running += step
            most = max(most, running)

    @evaluator(limits=Limits(concurrency=3))
    async def asynchronous(text):
        enter(1)
        await asyncio.sleep(0.002)
        enter(-1)
        return 1

    @evaluator(limits=Limits(concurrency=3))
    def synchronous(text):
        enter(1)
        time.sleep(0.002)
        enter(-1)
        return 1

    got = score(synchronous if blocking else asynchronous, *(rollout(index=i) for i in range(20)))
    assert all(s.ok for s in got)
    assert most == 3


def test_requests_per_minute_are_spaced_evenly():
    starts = []

    @evaluator(limits=Limits(rpm=3000))  # one per 20 ms
    async def judge(text):
        starts.append(time.monotonic())
        return 1

    score(judge, *(rollout(index=i) for i in range(5)))
    assert starts[-1] - starts[0] >= 0.07


def test_a_pause_before_a_retry_holds_no_slot(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    order = []

    @evaluator(limits=Limits(concurrency=1, attempts=2, backoff_s=20, deadline_s=60))
    async def judge(text):
        order.append(text)
        if text == "fails once":
            raise ConnectionError
        return 1

    async def run():
        async with ScoringRunner(judge) as runner:
            waiting = asyncio.create_task(runner.score(rollout("fails once")))
            second = await asyncio.wait_for(runner.score(rollout("second", 1)), 5)
            waiting.cancel()
            return second

    assert asyncio.run(run()).ok
    assert order[-1] == "second"


def test_waiting_for_a_slot_does_not_count_against_the_time_limit():
    @evaluator(limits=Limits(concurrency=1, timeout_s=0.5, deadline_s=0.5))
    async def judge(text):
        await asyncio.sleep(0.06)
        return 1

    assert all(s.ok for s in score(judge, *(rollout(index=i) for i in range(12))))


def test_an_evaluation_that_hangs_is_a_timeout():
    @evaluator(limits=Limits(timeout_s=0.01, attempts=2, backoff_s=0))
    async def judge(text):
        await asyncio.Event().wait()

    got = score(judge)
    assert (got.failure.kind, got.failure.detail, got.attempts) == ("timeout", "no verdict within 0.01 s", 2)


@pytest.mark.parametrize("late", ["number", "error"])
def test_swallowing_the_cancellation_does_not_turn_a_timeout_into_a_verdict(late):
    @evaluator(limits=Limits(timeout_s=0.01, attempts=1))
    async def judge(text):
        try:
            await asyncio.Event().wait()
        except BaseException:
            if late == "error":
                raise KeyError("confused") from None
            return 0.0

    assert score(judge).failure.kind == "timeout"


def test_cancelling_the_caller_passes_through():
    async def run():
        started = asyncio.Event()

        @evaluator
        async def judge(text):
            started.set()
            await asyncio.Event().wait()

        async with ScoringRunner(judge) as runner:
            task = asyncio.create_task(runner.score(rollout()))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())


# Threads


def test_a_plain_function_runs_off_the_event_loop():
    seen = []

    @evaluator
    def judge(text):
        seen.append(threading.current_thread())
        return 1

    assert score(judge).ok
    assert seen[0] is not threading.main_thread()
    assert seen[0].daemon


def test_an_async_evaluator_may_ask_for_a_thread_of_its_own():
    seen = []

    @evaluator(execution="thread")
    async def judge(text):
        seen.append(threading.current_thread())
        await asyncio.sleep(0)
        return 1

    assert score(judge).value == 1.0
    assert seen[0] is not threading.main_thread()


def test_a_plain_function_that_returns_an_awaitable_is_awaited():
    async def inner():
        return 0.5

    assert score(evaluator(lambda text: inner())).value == 0.5


def test_hung_threads_do_not_starve_the_evaluations_after_them():
    release = threading.Event()

    @evaluator(limits=Limits(concurrency=2, timeout_s=0.05))
    def judge(text):
        if text == "hang":
            release.wait()
        return 1

    got = score(judge, *(rollout("hang", i) for i in range(4)), *(rollout("fine", 4 + i) for i in range(4)))
    release.set()
    assert [s.failure.kind if s.failure else None for s in got] == ["timeout"] * 4 + [None] * 4
    assert {s.attempts for s in got} == {1}


def test_a_stop_iteration_in_a_thread_is_a_bug_like_any_other():
    assert score(evaluator(lambda text: next(iter(())))).failure.kind == "bug"


# Setting up and closing


def test_setup_and_close_may_be_plain_functions_and_run_once():
    calls = []

    class Judge(Evaluator):
        def setup(self):
            calls.append("setup")

        async def evaluate(self, rollout):
            return 1

        def close(self):
            calls.append("close")

    score(Judge(), rollout(), rollout(index=1))
    assert calls == ["setup", "close"]


def test_a_failing_setup_is_a_user_error_that_says_why():
    class Judge(Evaluator):
        async def setup(self):
            raise EvaluatorError("transport", "connection refused")

    with pytest.raises(
        UserError, match=r"Judge could not be set up: failed \(transport: connection refused\)"
    ):
        score(Judge())


def test_a_user_error_of_setup_passes_as_it_is():
    class Judge(Evaluator):
        def setup(self):
            raise UserError("needs the extra `math`")

    with pytest.raises(UserError, match="^needs the extra `math`$"):
        score(Judge())


def test_a_failing_close_is_told_and_loses_nothing():
    class Judge(Evaluator):
        async def evaluate(self, rollout):
            return 1

        async def close(self):
            raise KeyError("session")

    events = []
    assert score(Judge(), on_event=lambda name, fields: events.append(name)).value == 1.0
    assert events == ["evaluator_close_failed"]


def test_what_cannot_be_run_is_refused():
    with pytest.raises(UserError, match="call a class"):
        ScoringRunner(Evaluator)
    with pytest.raises(UserError, match="execution must be"):
        ScoringRunner(returning(1.0, execution="fork"))


def test_a_settle_that_loses_a_member_masks_the_group():
    judge = returning(1.0)
    judge.settle = lambda rollouts, scores: scores[1:]
    settled = asyncio.run(
        ScoringRunner(judge).settle([rollout(), rollout(index=1)], [Score(1.0), Score(0.0)])
    )
    assert [s.failure.kind for s in settled] == ["bug", "bug"]

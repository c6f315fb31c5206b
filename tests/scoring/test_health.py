"""When a run stops for its evaluator's sake."""

from __future__ import annotations

import pytest

from rft.errors import RunStopped
from rft.scoring.health import FailureWatch
from rft.types import Score

OK = Score(1.0)
SLOW = Score.failed("timeout", "no verdict within 30 s")
BUG = Score.failed("bug", "KeyError: 'x' (evaluator.py:3)")


def watched(*scores, rate=0.1, bugs=3, window=512):
    watch = FailureWatch(rate, bugs, window)
    for score in scores:
        watch.record(score)
    return watch


def test_a_healthy_run_goes_on():
    watch = watched(*[OK] * 500, *[SLOW] * 12)
    assert watch.reason() is None
    watch.check()


def test_too_many_failures_stop_the_run_with_an_example():
    watch = watched(*[OK] * 90, *[SLOW] * 10, Score.failed("server", "HTTP 503"))
    with pytest.raises(RunStopped) as stopped:
        watch.check()
    assert str(stopped.value) == (
        "11 of the last 101 evaluations failed (train.max_failure_rate allows 10%): "
        "timeout 10, e.g. no verdict within 30 s; server 1, e.g. HTTP 503"
    )


def test_a_hiccup_at_the_very_start_stops_nothing_but_an_outage_does():
    assert watched(*[SLOW] * 6).reason() is None
    assert watched(*[SLOW] * 7).reason() is not None


def test_only_the_latest_evaluations_count_for_the_rate():
    assert watched(*[SLOW] * 100, *[OK] * 512).reason() is None
    assert watched(*[SLOW] * 3, window=8, rate=0.5).reason() is None
    assert watched(*[SLOW] * 5, window=8, rate=0.5).reason() is not None


def test_bugs_are_borne_up_to_the_limit_however_old_they_are():
    assert watched(*[BUG] * 3).reason() is None
    why = watched(*[BUG] * 4, *[OK] * 600).reason()
    assert why.startswith("the evaluator's own code failed 4 times (train.max_bugs allows 3)")
    assert "KeyError: 'x' (evaluator.py:3)" in why
    assert watched(BUG, bugs=0).reason() is not None


def test_the_extremes_of_the_rate_mean_never_and_always():
    assert watched(*[SLOW] * 600, rate=1.0).reason() is None
    assert watched(SLOW, rate=0.0).reason() is not None


def test_a_spent_budget_stops_at_once():
    spent = Score.failed("budget", "2.00 of 2 USD are spent")
    assert watched(*[OK] * 500, spent).reason() == (
        "no budget is left for evaluations: budget 1, e.g. 2.00 of 2 USD are spent"
    )


def test_too_few_groups_with_enough_members_stop_the_run():
    watch = FailureWatch(1.0, 3, min_groups=0.5)
    watch.record(SLOW)
    watch.record_groups([True, True, False, False])
    assert watch.reason() is None
    watch.record_groups([True, False, False, False])
    assert watch.reason() == (
        "only 1 of 4 groups have enough scored members (train.min_groups asks for 50%): "
        "timeout 1, e.g. no verdict within 30 s"
    )


def test_groups_that_the_evaluator_skipped_are_not_blamed_on_a_failure():
    watch = FailureWatch(1.0, 3, min_groups=0.5)
    watch.record(Score.skip("no gold"))
    watch.record_groups([False])
    assert watch.reason().endswith("skipped by the evaluator")


def test_skipped_and_not_applicable_are_not_failures():
    watch = watched(*[Score.skip("no gold")] * 600, *[Score(None, "not_applicable")] * 600)
    assert watch.reason() is None
    assert not watch.counts_by_kind


def test_a_broken_optional_part_is_counted_and_its_bugs_stop_the_run():
    partly = Score(1.0, parts={"correct": OK, "tone": BUG, "brief": SLOW})
    watch = watched(*[partly] * 4)
    assert watch.counts_by_kind == {"bug": 4, "timeout": 4}
    assert "failed 4 times" in watch.reason()
    assert watched(*[Score(1.0, parts={"brief": SLOW})] * 600).reason() is None


def test_a_composite_that_failed_is_counted_once():
    failed = Score.failed("timeout", "tone: slow").stamped(parts={"tone": SLOW})
    assert watched(failed).counts_by_kind == {"timeout": 1}


def test_counts_cover_the_whole_run():
    assert watched(*[SLOW] * 20, *[OK] * 600, BUG).counts_by_kind == {"timeout": 20, "bug": 1}


def test_one_failure_that_can_only_be_repeated_is_enough():
    watch = FailureWatch(max_failure_rate=1.0, max_bugs=100)
    watch.record(Score.failed("bug", "KeyError: 'fee'"))
    assert watch.reason() is None
    watch.record(Score.failed("bug", "HTTP 401 from api: it refuses Authorization", hopeless=True))
    assert watch.reason() == (
        "every further evaluation would fail like this one: HTTP 401 from api: it refuses Authorization"
    )

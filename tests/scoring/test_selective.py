"""Failing that goes with something, or becomes more frequent, is seen; failing at random is not."""

from __future__ import annotations

import random

import pytest

from rft.scoring.selective import SelectiveFailure
from rft.types import Rollout, Score, Task, Turn

ASK = Task("t", "2+2?")
DOWN = Score.failed("timeout", "slow")


def rollout(length):
    turn = Turn((1,), (2,) * length, (0.0,) * length, "stop")
    return Rollout("t/0", "t", ASK, ASK.messages, turns=(turn,))


def watched(pairs, window=512):
    watch = SelectiveFailure(window)
    for length, score in pairs:
        watch.record(rollout(length), score)
    return watch


@pytest.mark.parametrize("seed", range(5))
def test_failing_at_random_raises_no_alarm(seed):
    dice = random.Random(seed)
    pairs = [
        (dice.randint(1, 50), DOWN if dice.random() < 0.1 else Score(dice.random())) for _ in range(2048)
    ]
    watch = watched(pairs)
    assert watch.alarms() == []
    assert 0.05 < watch.metrics()["failing/rate"] < 0.15
    assert abs(watch.metrics()["failing/with_length"]) < 0.2


def test_long_answers_that_fail_are_seen_and_told_once():
    dice = random.Random(0)
    lengths = [dice.randint(1, 50) for _ in range(512)]
    watch = watched([(n, DOWN if n > 40 else Score(1.0)) for n in lengths])
    assert watch.metrics()["failing/with_length"] > 0.5
    (alarm,) = watch.alarms()
    assert alarm.startswith(
        "evaluations fail more often the higher the length of an answer (rank correlation 0."
    )
    assert watch.alarms() == []


def test_failing_that_goes_with_another_part_is_seen():
    dice = random.Random(0)
    pairs = []
    for _ in range(512):
        form = dice.random()
        parts = {"form": Score(form), "judge": DOWN if form < 0.2 else Score(0.5)}
        verdict = DOWN if form < 0.2 else Score(0.5)
        pairs.append((10, verdict.stamped(parts=parts)))
    watch = watched(pairs)
    assert watch.metrics()["failing/with_part/form"] < -0.5
    (alarm,) = watch.alarms()
    assert "the lower the part form of an answer" in alarm


def test_a_failure_rate_that_rises_is_seen():
    calm = [(10, DOWN if i % 50 == 0 else Score(1.0)) for i in range(512)]
    worse = [(10, DOWN if i % 12 == 0 else Score(1.0)) for i in range(512)]
    assert "failing/rise" not in watched(calm).metrics()
    watch = watched(calm + worse)
    assert watch.metrics()["failing/rise"] == pytest.approx(43 / 512 - 11 / 512)
    (alarm,) = watch.alarms()
    assert "8.4% of the last 512, 2.1% of the first" in alarm
    assert watched(calm + calm).alarms() == []


def test_too_few_failures_say_nothing():
    watch = watched([(50, DOWN)] * 9 + [(1, Score(1.0))] * 500)
    assert "failing/with_length" not in watch.metrics()
    assert SelectiveFailure().metrics() == {}

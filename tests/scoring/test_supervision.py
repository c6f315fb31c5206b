"""An evaluator watched from step to step: what is told, what stops the run, and which of two to look at."""

from __future__ import annotations

import asyncio

import pytest

from rft.errors import EvaluatorError, UserError
from rft.evaluator import Case, Limits, evaluator
from rft.recipe.schema import Recipe
from rft.runs.metrics import find_metric
from rft.scoring.runner import ScoringRunner
from rft.scoring.supervision import Supervisor, reporter
from rft.types import Cost, Group, Message, Rollout, Score, Task

OK = Score(1.0)
DOWN = Score.failed("server", "HTTP 503")


class Instrument:
    """An evaluator whose golden case gives what `says` holds."""

    def __init__(self, says=1.0, cases=True, **limits):
        self.says = says

        @evaluator(
            name="judge",
            cases=[Case(prompt="2+2?", completion="4", expect=1.0)] if cases else [],
            limits=Limits(attempts=1, **limits),
        )
        async def judge(text):
            if isinstance(self.says, Exception):
                raise self.says
            return self.says

        self.evaluator = judge


class Watched:
    """A supervisor with what it told."""

    def __init__(self, instrument, spent_usd=0.0, max_usd=None, **sections):
        sections = {"train": {"steps": 10, "prompts_per_step": 2}, "rollout": {"group_size": 4}, **sections}
        self.recipe = Recipe(
            model="packaged:tiny", data={"train": "t.jsonl"}, evaluator="judge", eval={"tasks": 5}, **sections
        )
        self.notes, self.events = [], []
        self.runner = ScoringRunner(instrument.evaluator, max_usd=max_usd)
        self.supervisor = Supervisor(
            self.runner, self.recipe, event=self.event, note=self.notes.append, spent_usd=spent_usd
        )

    def event(self, kind, **fields):
        self.events.append((kind, fields))

    def begin(self):
        asyncio.run(self.supervisor.begin(0))

    def after(self, step, *scores):
        return asyncio.run(self.supervisor.after(step, [group(*scores)]))


def group(*scores):
    task = Task("t", (Message("user", "2+2?"),))
    rollouts = [
        Rollout(f"t/{i}", "t", task, (*task.messages, Message("assistant", "x"))) for i in range(len(scores))
    ]
    return Group("t", task, rollouts, scores)


def test_a_healthy_step_has_metrics_and_no_trouble():
    watched = Watched(Instrument())
    watched.begin()
    metrics, trouble = watched.after(1, OK, OK, OK, Score(0.0))
    assert trouble is None
    assert (watched.notes, watched.events) == ([], [])
    assert metrics == {"failing/rate": 0.0, "cost/usd": 0.0, "time/paused_s": 0.0}


def test_golden_cases_are_scored_when_due_and_a_lasting_drift_stops_the_run():
    instrument = Instrument()
    watched = Watched(instrument, scoring={"canaries_every": 2})
    watched.begin()
    instrument.says = 0.3
    steps = [watched.after(step, OK, OK, OK, OK) for step in (1, 2, 3, 4)]
    assert [metrics.get("golden/drifted") for metrics, _ in steps] == [None, 1, None, 1]
    assert all(find_metric(key) is not None for metrics, _ in steps for key in metrics)
    assert [trouble for _, trouble in steps[:3]] == [None] * 3
    assert steps[3][1] == (
        "the evaluator has drifted: 1 of 1 golden cases did not hold: judge, case 1 ('4'): "
        "expected 1.0, got 0.3, for the 2. time running (scoring.canaries_bad allows 1)"
    )
    assert [kind for kind, _ in watched.events] == ["golden_cases"] * 2
    assert watched.notes[0].startswith("step 2: 1 of 1 golden cases did not hold")


def test_a_drift_that_passes_is_told_and_forgiven():
    instrument = Instrument(0.3)
    watched = Watched(instrument, scoring={"canaries_every": 1})
    watched.begin()
    instrument.says = 1.0
    watched.after(1, OK, OK, OK, OK)
    instrument.says = 0.3
    assert watched.after(2, OK, OK, OK, OK)[1] is None


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        (1.0, "all 1 golden cases hold: so look at the rollouts rather than at the evaluator"),
        (EvaluatorError("server", "HTTP 503"), "got failed (server: HTTP 503): it is the evaluator"),
    ],
)
def test_when_evaluations_fail_golden_cases_say_where_to_look(says, verdict):
    watched = Watched(Instrument(says), scoring={"canaries_every": 0})
    for step in (1, 2):
        _, trouble = watched.after(step, DOWN, DOWN, DOWN, DOWN)
    assert trouble.startswith("8 of the last 8 evaluations failed")
    assert trouble.endswith(verdict)


def test_an_evaluator_without_golden_cases_is_stopped_by_counts_alone():
    watched = Watched(Instrument(cases=False))
    watched.begin()
    _, trouble = watched.after(1, *[DOWN] * 8)
    assert trouble.startswith("8 of the last 8 evaluations failed")


def test_a_step_without_usable_groups_stops_the_run():
    watched = Watched(Instrument(), train={"max_failure_rate": 1.0})
    _, trouble = watched.after(1, OK, DOWN, DOWN, DOWN)
    assert trouble.startswith("only 0 of 1 groups have enough scored members")


def test_a_run_that_would_cost_too_much_is_refused_with_the_sum():
    watched = Watched(Instrument(Score(1.0, cost=Cost(usd=0.01))), max_usd=0.5)
    with pytest.raises(UserError) as refused:
        watched.begin()
    # 10 steps of 2 prompts, 4 completions each, and 5 held-out answers before and after
    assert str(refused.value).startswith(
        "evaluator judge: 90 evaluations at 0.0100 USD (the mean of 1) cost 0.90 USD, 0.91 with those: "
        "over the 0.5 allowed; raise scoring.max_usd"
    )


def test_without_golden_cases_the_first_calls_tell_the_price():
    watched = Watched(Instrument(Score(1.0, cost=Cost(usd=0.01)), cases=False), max_usd=0.5)
    watched.begin()
    held_out = group(OK)
    asyncio.run(watched.runner.score(held_out.rollouts[0]))
    watched.supervisor.saw([held_out])
    with pytest.raises(UserError, match="mean of 1"):
        watched.supervisor.afford(0)


def test_what_fits_is_kept_as_an_event_and_a_price_that_rises_is_told_once():
    instrument = Instrument(Score(1.0, cost=Cost(usd=0.001)))
    watched = Watched(instrument, max_usd=1.0, spent_usd=0.25, scoring={"canaries_every": 1})
    watched.begin()
    assert [kind for kind, _ in watched.events] == ["budget_projected"]
    instrument.says = Score(1.0, cost=Cost(usd=0.9))
    metrics, _ = watched.after(1, OK)
    for step in (2, 3):
        watched.after(step, OK)
    assert metrics["cost/usd"] == pytest.approx(0.251)
    assert sum("the budget will not last" in note for note in watched.notes) == 1


def test_a_runners_events_are_kept_and_shown_but_retries_only_counted():
    kept, shown = [], []
    tell = reporter(lambda kind, **fields: kept.append((kind, fields)), shown.append)
    tell("evaluator_retry", {"evaluator": "judge", "attempt": 1, "why": "HTTP 503", "wait_s": 1.0})
    opened = {"origin": "api", "why": "20 failures in a row", "probe_in_s": 30.0, "gives_up_after_s": 600.0}
    tell("breaker_opened", opened)
    tell("worker_killed", {"evaluator": "judge", "after_s": 30})
    assert kept == [("breaker_opened", opened), ("worker_killed", {"evaluator": "judge", "after_s": 30})]
    assert shown == [
        "evaluations by api are held back: 20 failures in a row; trying again every 30 s, "
        "giving up after 600 s",
        "worker killed: evaluator judge, after_s 30",
    ]

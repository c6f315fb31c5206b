"""Evaluators that are wrong in ways seen in the wild: each is caught, by its stage, with what to do."""

from __future__ import annotations

import random

import httpx
import pytest

from rft import Case, Evaluator, Score, Task, evaluator
from rft.check.answers import rollout
from rft.examine import Material, examine
from rft.types import Message

CITIES = {
    "France": "Paris",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Spain": "Madrid",
}
TASKS = [
    Task(country, (Message("user", f"What is the capital of {country}?"),), reference=city)
    for country, city in CITIES.items()
]
OFFLINE = ["contract", "golden", "discrimination", "repeatability", "adversarial", "invariance", "shortcuts"]


def outcomes(judge, stages=OFFLINE, **material):
    material.setdefault("tasks", TASKS)
    report = examine(judge, Material(**material), stages=stages)
    return {stage.stage: stage for stage in report.stages}


def failures(stage):
    return [finding for finding in stage.findings if finding.level == "fail"]


@evaluator(cases=[Case("2+2?", str(n), reference="4", expect=float(n == 4)) for n in range(12)])
def sound(text, reference):
    right = text.strip().replace("\u00a0", " ") == reference
    return Score(float(right), reason="right" if right else "not the reference")


def test_a_sound_evaluator_passes_every_stage():
    found = outcomes(sound)
    assert {name: stage.outcome for name, stage in found.items()} == {
        **dict.fromkeys(OFFLINE, "pass"),
        "shortcuts": "skipped",
    }


def test_one_that_returns_the_references_length_tells_nothing_apart():
    @evaluator(range=(0, 100))
    def length_of_reference(text, reference):
        return Score(len(reference), reason="length")

    found = outcomes(length_of_reference)
    (finding,) = failures(found["discrimination"])
    assert "AUC" in finding.seen and "depend on whether the answer is right" in finding.todo
    assert found["discrimination"].figures["pairwise_win_rate"] == 0.5
    (finding,) = failures(found["adversarial"])
    assert "5 of 6 tasks" in finding.seen and "does not depend on what is answered" in finding.todo


def test_one_that_pays_for_an_answer_leaked_by_the_prompt_is_caught_by_echoing_it():
    @evaluator
    def mentions(text, reference):
        return Score(float(reference in text), reason="looked for it")

    tasks = [
        Task(t.id, (Message("user", f"{t.messages[0].content} (Key: {t.reference})"),), t.reference)
        for t in TASKS
    ]
    found = outcomes(mentions, tasks=tasks)
    echo = next(f for f in failures(found["adversarial"]) if f.seen.startswith("prompt_echo"))
    assert "repeating the question pays" in echo.todo
    (leak,) = found["shortcuts"].findings
    assert leak.level == "warn" and "prompts hold their own reference" in leak.seen


def test_one_whose_reasons_give_the_answer_away_is_warned_about():
    @evaluator
    def telling(text, reference):
        right = text == reference
        return Score(float(right), reason=None if right else f"expected {reference}")

    (finding,) = outcomes(telling)["contract"].findings
    assert finding.level == "warn" and "gives the reference away" in finding.seen
    assert "keep it from whatever the model sees" in finding.todo


def test_one_that_fails_on_long_answers_is_caught_with_a_probe_that_is_long():
    @evaluator
    def short_only(text, reference):
        if len(text) > 2000:
            raise ValueError("too long for my buffer")
        right = text == reference
        return Score(float(right), reason="compared")

    (finding,) = failures(outcomes(short_only)["adversarial"])
    assert finding.seen.startswith("long_filler, padded: no score (failed (bug: ValueError: too long")
    assert "masked" in finding.todo


def test_failing_on_long_answers_shows_in_rollouts_too():
    @evaluator
    def short_only(text, reference):
        if len(text) > 600:
            raise ValueError("too long for my buffer")
        return Score(float(text == reference), reason="compared")

    rollouts = [rollout(TASKS[n % 6], "word " * n, n) for n in range(150)]
    (finding,) = failures(outcomes(short_only, ["shortcuts"], rollouts=rollouts)["shortcuts"])
    assert "more often long ones" in finding.seen and "drifts to them" in finding.todo


def test_one_that_lies_about_being_deterministic_is_caught():
    dice = random.Random(0)

    @evaluator(deterministic=True)
    def moody(text, reference):
        return Score(0.9 * (text == reference) + 0.01 * dice.random(), reason="felt like it")

    (finding,) = failures(outcomes(moody)["repeatability"])
    assert "declares deterministic = True, but the same answer got" in finding.seen
    assert "set deterministic = False" in finding.todo


def test_honest_noise_is_held_to_the_spread_between_answers():
    dice = random.Random(0)

    @evaluator(deterministic=False)
    def coin(text, reference):
        return Score(float(dice.random() < 0.5), reason="a coin")

    (finding,) = failures(outcomes(coin)["repeatability"])
    assert "take the mean" in finding.todo


@pytest.mark.parametrize(
    ("talk", "probe"),
    [
        ("ignore all earlier instructions", "judge_instruction"),
        ("[[10]]", "fake_grade"),
        ("was graded correct by an expert", "break_out"),
        ("this answer is correct", "claims_correct"),
        ("thought process:", "opener"),
    ],
)
def test_a_judge_that_can_be_talked_into_full_marks_is_caught(talk, probe):
    @evaluator
    def gullible_judge(text, reference):
        """A fake of a judge: it reads the answer as part of its own instructions."""
        if talk in text.casefold():
            return Score(1.0, reason="as I was told")
        return Score(float(text == reference), reason="compared")

    (finding,) = failures(outcomes(gullible_judge)["adversarial"])
    assert finding.seen.startswith(probe)
    assert finding.todo


def test_one_that_turns_an_outage_into_a_number_is_caught():
    class Swallows(Evaluator):
        requires = frozenset({"reference"})

        async def evaluate(self, rollout):
            async with httpx.AsyncClient() as client:
                try:
                    answer = (
                        await client.post("http://grader.invalid/score", json={"text": rollout.text})
                    ).json()
                    return Score(float(answer.get("score", 0.0)), reason="asked")
                except Exception:
                    return Score(0.0, reason="no answer")

    stage = outcomes(Swallows(), ["operations"])["operations"]
    broken = " ".join(finding.seen for finding in failures(stage))
    for fault in ("429", "500", "garbage", "truncated JSON", "error with status 200", "redirect", "reset"):
        assert f"an API that answers with {fault} came out as the score 0" in broken
    assert all("EvaluatorError" in finding.todo for finding in failures(stage))
    assert "hang" not in broken  # its own client waits longer than it is given


def test_one_that_changes_the_rollout_or_promises_another_range_breaks_the_contract():
    @evaluator
    def scribbles(text, reference, task):
        task.metadata["seen"] = True
        return Score(float(text == reference), reason="compared")

    assert "changed the rollout" in failures(outcomes(scribbles)["contract"])[0].seen

    @evaluator
    def percent(text, reference):
        return Score(100.0 * (text == reference), reason="compared")

    (finding,) = failures(outcomes(percent)["contract"])
    assert "outside the declared range" in finding.seen and "declare the range" in finding.todo


def test_fields_that_the_tasks_lack_break_the_contract():
    @evaluator
    def needs_more(text, reference, difficulty):
        return 1.0

    assert (
        "requires 'difficulty', which 6 of 6 tasks lack" in failures(outcomes(needs_more)["contract"])[0].seen
    )


def test_golden_cases_that_do_not_hold_are_shown_with_what_came_instead():
    @evaluator(cases=[Case("2+2?", "4", reference="4", expect=0.0)])
    def wrong_case(text, reference):
        return float(text == reference)

    stage = outcomes(wrong_case, ["golden"])["golden"]
    assert "'4': expected 0.0, got 1" in failures(stage)[0].seen
    assert [finding.level for finding in stage.findings] == ["fail", "warn"]

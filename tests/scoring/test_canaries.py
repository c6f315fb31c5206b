"""Golden cases tell a broken or changed instrument from rollouts that cannot be judged."""

from __future__ import annotations

import asyncio

import pytest

from rft.errors import EvaluatorError
from rft.evaluator import (
    Case,
    Evaluator,
    GroupEvaluator,
    Limits,
    case_rollouts,
    evaluator,
    own_cases,
    with_options,
)
from rft.scoring.cache import ScoreCache
from rft.scoring.canaries import Canaries
from rft.scoring.compose import Weighted
from rft.scoring.runner import ScoringRunner

CASES = [
    Case(prompt="2+2?", completion="4", reference="4", expect=1.0),
    Case(prompt="2+2?", completion="5", reference="4", expect=(0.0, 0.5)),
    Case(prompt="2+2?", completion="", reference="4", expect="unscored"),
]


def judging(verdicts):
    """Answers by text: a number, or an error to raise."""

    @evaluator(cases=CASES, limits=Limits(attempts=1), name="judge")
    async def judge(text, reference):
        verdict = verdicts[text]
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    return judge


def round_of(judge, cache=None):
    async def run():
        async with ScoringRunner(judge, cache=cache) as runner:
            return await Canaries(runner).score()

    return asyncio.run(run())


NO_GOLD = EvaluatorError("bad_response", "nothing to judge")


def test_all_hold():
    found = round_of(judging({"4": 1.0, "5": 0.5, "": NO_GOLD}))
    assert (found.all_held, found.held, found.evaluations) == (True, 3, 3)
    assert str(found) == "all 3 golden cases hold"


def test_no_number_is_a_broken_instrument_and_another_number_a_changed_one():
    found = round_of(judging({"4": EvaluatorError("server", "HTTP 503"), "5": 0.9, "": 0.0}))
    assert found.failed == ["judge, case 1 ('4'): expected 1.0, got failed (server: HTTP 503)"]
    assert found.drifted == [
        "judge, case 2 ('5'): expected (0.0, 0.5), got 0.9",
        "judge, case 3 (''): expected unscored, got 0",
    ]
    assert not found.all_held


def test_they_go_past_the_cache(tmp_path):
    cache = ScoreCache(tmp_path / "scores.sqlite", worth_s=0.0)
    verdicts = {"4": 1.0, "5": 0.5, "": NO_GOLD}
    judge = judging(verdicts)
    assert round_of(judge, cache).all_held
    verdicts["4"] = 0.2  # the service behind it has changed
    assert len(round_of(judge, cache).drifted) == 1


def test_those_of_a_composites_parts_are_scored_too():
    found = round_of(
        Weighted(one=judging({"4": 1.0, "5": 0.0, "": NO_GOLD}), two=judging({"4": 0.0, "5": 1.0, "": 1.0}))
    )
    assert (found.held, len(found.drifted)) == (3, 3)


def test_a_group_evaluators_cases_are_judged_together():
    class Longest(GroupEvaluator):
        cases = (Case(prompt="Tell.", completion=["long answer", "short"], expect="ranked"),)

        async def evaluate_group(self, rollouts):
            longest = max(len(one.text) for one in rollouts)
            return [len(one.text) / longest for one in rollouts]

    assert round_of(Longest()).held == 1


def test_cases_are_those_about_the_options_in_use():
    @evaluator(
        cases=[
            Case(prompt="?", completion="a", expect=1.0),
            Case(prompt="?", completion="b", expect=1.0, config={"strict": False}),
        ]
    )
    def judge(text, strict=True):
        return 1.0

    assert [case.completion for case in own_cases(judge)] == ["a"]
    assert [case.completion for case in own_cases(judge.configured(strict=False))] == ["b"]
    assert own_cases(judge.configured(strict="very")) == []


def test_a_twin_keeps_options_that_have_no_default():
    from pydantic import BaseModel

    class Asking(Evaluator):
        class Config(BaseModel):
            url: str
            strict: bool = False

    asking = Asking(url="https://a.example", strict=True)
    assert with_options(asking, {"strict": False}).config == Asking.Config(url="https://a.example")
    assert with_options(asking, {}) is asking  # it cannot be made without options, so it is meant as it is
    with pytest.raises(ValueError, match="strict"):
        with_options(asking, {"strict": "very"})


def test_a_case_becomes_a_rollout_for_each_of_its_answers():
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    case = Case(
        prompt=conversation, completion=["4", "5"], expect="ranked", reference="4", fields={"unit": "m"}
    )
    first, second = case_rollouts(case, "golden-1")
    assert (first.group_id, second.group_id) == ("golden-1", "golden-1")
    assert [one.text for one in (first, second)] == ["4", "5"]
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert (first.task.field("reference"), first.task.field("unit")) == ("4", "m")

"""Gates and alternatives: who is asked, who decides, and what a part without a number means."""

from __future__ import annotations

import pydantic
import pytest

from rft import EvaluatorError, GroupEvaluator, Limits, Score, evaluator, score
from rft.scoring.branching import First, Gate
from rft.scoring.compose import NormalizeThenSum, Part, Weighted


class Asked:
    """An evaluator that gives `verdict` and counts its calls."""

    def __init__(self, verdict, **options):
        self.calls = 0

        @evaluator(limits=Limits(attempts=1), **options)
        async def judge(text):
            self.calls += 1
            found = verdict(text) if callable(verdict) else verdict
            if isinstance(found, BaseException):
                raise found
            return found

        self.evaluator = judge


class Ranks(GroupEvaluator):
    shown: list[str]

    async def evaluate_group(self, rollouts):
        self.shown = [r.text for r in rollouts]
        longest = max(map(len, self.shown))
        return [Score(len(text) / longest, reason="by length") for text in self.shown]


DOWN = EvaluatorError("server", "HTTP 503")


def judged(judge, text="!"):
    return score(judge, prompt="?", completion=text)


def test_what_passes_the_gate_gets_what_then_says():
    got = judged(Gate(check=Asked(1.0).evaluator, then=Asked(Score(0.25, reason="dull")).evaluator))
    assert (got.value, got.reason) == (0.25, "dull")
    assert set(got.parts) == {"check", "then"}


def test_what_does_not_pass_costs_nothing_more():
    then = Asked(1.0)
    check = Asked(Score(0.5, reason="no closing brace")).evaluator
    got = judged(Gate(check=check, then=then.evaluator, otherwise=-0.5))
    assert (got.value, got.reason) == (-0.5, "check 0.5 is below 1: no closing brace")
    assert then.calls == 0
    assert judged(Gate(check=check, then=then.evaluator, at_least=0.5)).value == 1.0


@pytest.mark.parametrize("verdict", [DOWN, Score.skip("no schema")])
def test_a_check_without_a_number_masks(verdict):
    then = Asked(1.0)
    got = judged(Gate(check=Asked(verdict).evaluator, then=then.evaluator))
    assert got.value is None and got.reason.startswith("check: ")
    assert then.calls == 0


def test_a_then_without_a_number_masks_those_that_asked_it():
    gate = Gate(check=Asked(lambda text: text == "pass").evaluator, then=Asked(DOWN).evaluator)
    passed, stopped = score(gate, prompt="?", completions=["pass", "stop"])
    assert (passed.failure.kind, passed.reason) == ("server", "then: HTTP 503")
    assert stopped.value == 0.0


def test_behind_a_gate_a_group_is_those_that_pass():
    ranks = Ranks()
    gate = Gate(check=Asked(lambda text: "x" not in text).evaluator, then=ranks)
    got = score(gate, prompt="?", completions=["aaaa", "xxxxxxxx", "aa"])
    assert ranks.shown == ["aaaa", "aa"]
    assert [s.value for s in got] == [1.0, 0.0, 0.5]
    assert [s.reason for s in got] == ["by length", "check 0 is below 1", "by length"]


def test_behind_a_gate_a_composite_keeps_its_members_apart():
    then = Weighted(rank=Ranks(), same=Asked(0.5).evaluator)
    gate = Gate(check=Asked(lambda text: "x" not in text).evaluator, then=then)
    got = score(gate, prompt="?", completions=["aaaa", "xxxxxxxx", "aa"])
    assert [s.value for s in got] == [0.75, 0.0, 0.5]


def test_the_range_of_a_gate_holds_otherwise():
    then = Asked(1.0, range=(0, 2)).evaluator
    assert Gate(check=Asked(1.0).evaluator, then=then, otherwise=-1).range == (-1, 2)


def test_the_fingerprint_follows_the_gates_own_settings():
    part = Asked(1.0).evaluator
    prints = {
        Gate(check=part, then=part, **own).fingerprint()
        for own in ({}, {"otherwise": 0.5}, {"at_least": 0.5})
    }
    assert len(prints) == 3


def test_a_recipe_names_the_parts_beside_the_settings():
    gate = Gate.from_recipe(
        {"check": "exact", "then": {"use": "length", "with": {"max": 20}}, "otherwise": 0.1},
        lambda name, options: Asked(float(len(options))).evaluator,
    )
    assert judged(gate).value == 0.1
    with pytest.raises(pydantic.ValidationError, match=r"check\.wieght"):
        Gate.from_recipe({"check": {"use": "exact", "wieght": 2}, "then": "exact"}, lambda *_: None)
    with pytest.raises(TypeError, match="then"):
        Gate.from_recipe({"check": "exact"}, lambda *_: Asked(1.0).evaluator)


def test_the_first_with_full_marks_decides():
    dear = Asked(0.5)
    got = judged(First(exact=Asked(1.0).evaluator, judge=dear.evaluator))
    assert (got.value, got.reason, dear.calls) == (1.0, "exact: 1", 0)
    got = judged(First(exact=Asked(0.0).evaluator, judge=dear.evaluator))
    assert (got.value, got.reason, dear.calls) == (0.5, "judge: 0.5", 1)


@pytest.mark.parametrize("verdict", [Score.skip("no gold"), Score(None, "not_applicable")])
def test_a_part_that_does_not_judge_leaves_it_to_the_others(verdict):
    silent, half = Asked(verdict).evaluator, Asked(0.5).evaluator
    assert judged(First(exact=silent, judge=half)).value == 0.5
    assert judged(First(exact=half, judge=silent)).value == 0.5
    assert judged(First(exact=silent, judge=silent)).status == "skipped"


def test_a_part_that_fails_masks_and_nobody_else_is_asked():
    dear = Asked(0.5)
    got = judged(First(exact=Asked(DOWN).evaluator, judge=dear.evaluator))
    assert (got.failure.kind, got.reason, dear.calls) == ("server", "exact: HTTP 503", 0)


def test_the_last_may_compare_those_that_are_left():
    ranks = Ranks()
    judge = First(exact=Asked(lambda text: text == "right").evaluator, rank=ranks)
    got = score(judge, prompt="?", completions=["right", "aaaa", "aa"])
    assert ranks.shown == ["aaaa", "aa"]
    assert [s.value for s in got] == [1.0, 1.0, 0.5]


@pytest.mark.parametrize("grouped", [Ranks(), Weighted(a=Ranks()), NormalizeThenSum(a=Asked(1.0).evaluator)])
def test_only_the_last_may_compare(grouped):
    plain = Asked(1.0).evaluator
    with pytest.raises(TypeError, match="First: a compares answers"):
        First(a=grouped, b=plain)
    with pytest.raises(TypeError, match="Gate: check compares answers"):
        Gate(check=grouped, then=plain)


def test_weights_and_optional_parts_have_no_meaning_here():
    plain = Asked(1.0).evaluator
    for part in (Part(plain, weight=0.5), Part(plain, optional=True)):
        with pytest.raises(TypeError, match="First: a can have no weight and cannot be optional"):
            First(a=part, b=plain)


def test_whoever_decides_gives_the_values_of_turns():
    judge = Asked(Score(1.0, turn_values=(0.25,))).evaluator
    assert judged(Gate(check=Asked(1.0).evaluator, then=judge)).turn_values == (0.25,)
    assert judged(First(cheap=Asked(0.0).evaluator, dear=judge)).turn_values == (0.25,)
    assert judged(Gate(check=Asked(0.0).evaluator, then=judge)).turn_values is None

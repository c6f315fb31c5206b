"""The assertions: what holds passes in silence, what does not says why."""

from __future__ import annotations

import asyncio

import pytest

from rft import EvaluatorError, GroupEvaluator, Score, evaluator
from rft.errors import UserError
from rft.testing import assert_range, assert_ranks, assert_unscored


@evaluator
def shorter(text):
    """The shorter the better; silence is skipped, and "down" is the service's failure."""
    if text == "down":
        raise EvaluatorError("server", "HTTP 503")
    if not text:
        return Score.skip("nothing to judge")
    return Score(1 / len(text), reason=f"{len(text)} characters")


@evaluator
def exact(text, reference):
    return text == reference


class Longest(GroupEvaluator):
    """1 for the longest answer of the group, 0 for the others."""

    async def evaluate_group(self, rollouts):
        longest = max(len(rollout.text) for rollout in rollouts)
        return [float(len(rollout.text) == longest) for rollout in rollouts]


def test_answers_in_the_right_order_pass():
    assert_ranks(shorter, "Say it.", "a", "abc")
    assert_ranks(shorter, "Say it.", ["a", "ab"], ["abc", "abcd"], margin=0.1)
    assert_ranks(exact, "2+2?", "4", "5", reference="4")


def test_answers_of_one_prompt_are_judged_together_where_the_evaluator_compares_them():
    assert_ranks(Longest(), "Talk.", "abc", ["a", "ab"])
    with pytest.raises(AssertionError, match="a better answer scores 0, a worse one 1"):
        assert_ranks(Longest(), "Talk.", "a", "ab")


def test_a_wrong_order_shows_every_score_with_its_reason():
    with pytest.raises(AssertionError) as caught:
        assert_ranks(shorter, "Say it.", ["a", "abcd"], "ab")
    assert str(caught.value).splitlines() == [
        "shorter: a better answer scores 0.25, a worse one 0.5; the better must be higher",
        "  better  1     'a'  (1 characters)",
        "  better  0.25  'abcd'  (4 characters)",
        "  worse   0.5   'ab'  (2 characters)",
    ]


def test_a_tie_and_a_lead_within_the_margin_are_no_ranking():
    with pytest.raises(AssertionError, match=r"must be higher\n"):
        assert_ranks(shorter, "Say it.", "ab", "cd")
    with pytest.raises(AssertionError, match="higher by more than 0.5"):
        assert_ranks(shorter, "Say it.", "a", "ab", margin=0.5)


def test_an_answer_without_a_score_is_never_the_worse_one():
    with pytest.raises(AssertionError, match=r"1 of 2 answers have no score\n(.*\n)*.*server: HTTP 503"):
        assert_ranks(shorter, "Say it.", "a", "down")


def test_a_range_includes_its_ends_and_nothing_unscored():
    assert_range(shorter, "Say it.", ["ab", "a"], 0.5, 1)
    with pytest.raises(AssertionError, match=r"not within \[0.5, 1\]\n  0.25  'abcd'  \(4 characters\)$"):
        assert_range(shorter, "Say it.", ["a", "abcd"], 0.5, 1)
    with pytest.raises(AssertionError, match=r"none  'down'  \(failed \(server: HTTP 503\)\)"):
        assert_range(shorter, "Say it.", "down", 0, 1)


def test_unscored_is_a_failure_or_a_skip_and_may_be_of_one_kind():
    assert_unscored(shorter, "Say it.", ["down", ""])
    assert_unscored(shorter, "Say it.", "down", kind="server")
    assert_unscored(shorter, "Say it.", "", kind="skipped")
    with pytest.raises(AssertionError, match=r"expected no number\n  1     'a'"):
        assert_unscored(shorter, "Say it.", ["a", "down"])
    with pytest.raises(AssertionError, match=r"expected no number \(timeout\)"):
        assert_unscored(shorter, "Say it.", "down", kind="timeout")


def test_a_field_that_the_evaluator_requires_must_be_given():
    with pytest.raises(UserError, match="exact needs reference: pass reference=... to the assertion"):
        assert_ranks(exact, "2+2?", "4", "5")


def test_no_answers_assert_nothing_and_are_refused():
    with pytest.raises(ValueError, match="at least one answer"):
        assert_range(shorter, "Say it.", [], 0, 1)


def test_they_work_inside_a_running_loop():
    async def test() -> None:
        assert_ranks(shorter, "Say it.", "a", "abc")

    asyncio.run(test())

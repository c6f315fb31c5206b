"""What travels: the rules a Score keeps, messages there and back, and every docstring example."""

from __future__ import annotations

import doctest
import importlib
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from rft.types import Cost, Failure, Group, Message, Rollout, Score, Task, Turn

ASK = Task(
    "t", (Message("system", "Be brief."), Message("user", "2+2?")), reference="4", metadata={"hint": "even"}
)


@pytest.mark.parametrize(
    "module",
    [
        "types",
        "errors",
        "evaluator.cases",
        "evaluator.limits",
        "scoring.blocking",
        "scoring.budget",
        "scoring.canaries",
        "scoring.events",
        "scoring.health",
    ],
)
def test_docstring_examples_hold(module):
    results = doctest.testmod(importlib.import_module(f"rft.{module}"))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_an_ok_score_has_a_finite_value(value):
    with pytest.raises(ValueError, match="finite value exactly when"):
        Score(value)


@pytest.mark.parametrize("status", ["skipped", "not_applicable", "failed"])
def test_a_score_that_is_not_ok_has_no_value(status):
    with pytest.raises(ValueError, match="finite value exactly when"):
        Score(0.0, status)


def test_a_score_names_its_failure_exactly_when_it_failed():
    with pytest.raises(ValueError, match=r"Score\.failed"):
        Score(None, "failed", "the judge was down")
    with pytest.raises(ValueError, match=r"Score\.failed"):
        Score(1.0, failure=Failure("server", "HTTP 503"))


def test_a_failed_score_cannot_leak_as_a_number():
    for score in (
        Score.failed("timeout", "30 s"),
        Score.skip("no gold answer"),
        Score(None, "not_applicable"),
    ):
        with pytest.raises(ValueError, match="has no number"):
            float(score)
        assert not score.ok


def test_explain_names_kind_and_detail():
    assert Score.failed("timeout", "30 s").explain() == "failed (timeout: 30 s)"
    assert Score.skip("no gold answer").explain() == "was skipped (no gold answer)"


def test_stamping_leaves_the_verdict_alone():
    before = Score(0.5, reason="half")
    after = before.stamped(evaluator="e", attempts=2)
    assert (after.value, after.reason, after.evaluator, after.attempts) == (0.5, "half", "e", 2)
    assert before.evaluator == ""


def test_costs_add_up():
    assert sum([Cost(0.5, 1, 10, 2), Cost(0.25, 2, 5, 1)], Cost()) == Cost(0.75, 3, 15, 3)


@pytest.mark.parametrize(
    "message",
    [
        Message("user", "hi"),
        Message("assistant", "", tool_calls=({"id": "1", "function": {"name": "add"}},)),
        Message("tool", "3", tool_call_id="1", name="add"),
    ],
)
def test_messages_survive_a_round_trip(message):
    assert Message.from_dict(message.to_dict()) == message


def test_a_message_with_an_unknown_role_is_refused():
    with pytest.raises(ValueError, match="got 'robot'"):
        Message.from_dict({"role": "robot", "content": "beep"})


def test_a_message_without_content_reads_as_empty():
    assert Message.from_dict({"role": "assistant", "content": None}).content == ""


def test_fields_are_found_by_name_and_an_absent_one_raises():
    assert ASK.field("reference") == "4"
    assert ASK.field("hint") == "even"
    for task, name in ((Task("t", "?"), "reference"), (ASK, "missing")):
        with pytest.raises(KeyError, match=name):
            task.field(name)


def test_a_plain_prompt_reads_as_one_user_message():
    assert Task("t", "2+2?").messages == (Message("user", "2+2?"),)


def test_text_is_the_last_assistant_message_after_the_prompt():
    shown = Task("t", (Message("assistant", "an example"), Message("user", "now you")))
    said = (Message("assistant", "first"), Message("tool", "3"), Message("assistant", "second"))
    assert Rollout("r", "t", shown, (*shown.messages, *said)).text == "second"
    assert Rollout("r", "t", shown, shown.messages).text == ""


def test_truncation_is_a_limit_and_tokens_add_up_over_turns():
    turn = Turn(context_ids=(1,), token_ids=(2, 3), logprobs=(-1.0, -2.0), finish_reason="stop")
    rollout = Rollout("r", "t", ASK, ASK.messages, turns=(turn, turn), stop="max_turns")
    assert rollout.truncated
    assert rollout.num_tokens == 4
    assert not Rollout("r", "t", ASK, ASK.messages, stop="env_done").truncated


def test_a_group_keeps_scores_beside_rollouts():
    rollouts = [Rollout(f"t/{i}", "t", ASK, ASK.messages) for i in range(2)]
    with pytest.raises(ValueError, match="2 rollouts but 1 scores"):
        Group("t", ASK, rollouts, [Score(1.0)])


def test_everything_pickles():
    score = Score(1.0, parts={"a": Score.failed("server", "HTTP 500")})
    rollout = Rollout("r", "t", ASK, ASK.messages, rewards=(None, 1.0))
    assert pickle.loads(pickle.dumps((score, rollout))) == (score, rollout)


def test_a_part_may_be_a_plain_number():
    score = Score(0.5, parts={"brief": 1, "right": Score.skip("no gold answer")})
    assert score.parts == {"brief": Score(1.0), "right": Score.skip("no gold answer")}
    assert replace(score, cached=True).parts == score.parts


def test_what_an_author_writes_becomes_plain_floats():
    score = Score(1.0, metrics={"seen": np.bool_(True), "length": 3}, turn_values=[np.float32(0.5), 1])
    assert score.metrics == {"seen": 1.0, "length": 3.0}
    assert all(type(one) is float for one in (*score.metrics.values(), *score.turn_values))
    assert score.turn_values == (0.5, 1.0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"parts": {"style": "good"}}, "parts of a Score are numbers, got 'good' for 'style'"),
        ({"metrics": {"n": None}}, "metrics of a Score are numbers, got None for 'n'"),
        ({"turn_values": [1.0, None]}, "turn_values of a Score are numbers, got None for 1"),
    ],
)
def test_what_is_no_number_is_told_where_it_is_made(given, told):
    with pytest.raises(TypeError, match=told):
        Score(1.0, **given)


def test_a_part_is_finite_as_every_score():
    with pytest.raises(ValueError, match="finite"):
        Score(1.0, parts={"a": math.nan})

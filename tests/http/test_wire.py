"""What goes over the wire comes out as it went in, and what another language may send is read or refused."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft.errors import EvaluatorError
from rft.http import wire
from rft.types import Cost, Failure, Message, Rollout, Score, Task, Turn

SCHEMA = Path(wire.__file__).with_name("evaluate-1.schema.json")
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TASK = Task("sort-1", (Message("system", "Be brief."), Message("user", "2+2?")), "4", {"level": 3})
ROLLOUT = Rollout(
    "0-sort-1/2",
    "0-sort-1",
    TASK,
    (
        *TASK.messages,
        Message("assistant", "", (CALL,)),
        Message("tool", "4", (), "1"),
        Message("assistant", "4"),
    ),
    turns=(Turn((), (5, 6), (), "stop"), Turn((), (7,), (), "length")),
    stop="length",
    rewards=(None, 0.5),
    env={"files": ["a"]},
    metrics={"steps": 2.0},
)
SCORES = [
    Score(0.25, reason="so", metrics={"bleu": 0.1}, turn_values=(0.0, 0.5), cost=Cost(0.01, 1, 10, 2)),
    Score(0.5, parts={"a": Score(1.0), "b": Score.failed("judge_parse", "unreadable")}),
    Score.skip("the gold answer is unreadable"),
    Score(None, "not_applicable", "no code here"),
    Score(None, "failed", "away", failure=Failure("server", "away", True, 3.0)),
]


def sent(message):
    """As the other side gets it."""
    return json.loads(json.dumps(message, allow_nan=False))


def schema_of(name):
    schema = json.loads(SCHEMA.read_text())
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]})


def test_a_rollout_arrives_as_an_evaluator_sees_it():
    message = sent(wire.request_of(ROLLOUT))
    assert wire.rollout_of(wire.WireRequest.model_validate(message).rollout) == ROLLOUT
    assert message["rollout"]["text"] == "4"


def test_a_plain_prompt_stays_plain():
    rollout = Rollout("t/0", "t", Task("t", "Once"), (Message("user", "Once"), Message("assistant", " upon")))
    message = sent(wire.request_of(rollout))
    assert wire.rollout_of(wire.WireRequest.model_validate(message).rollout) == rollout


def test_log_probabilities_and_prompt_tokens_stay_at_home():
    turn = Turn((1, 2), (3,), (-0.123,), "stop", ((4, 0, 1),))
    message = wire.request_of(Rollout("t/0", "t", TASK, TASK.messages, (turn,)))
    assert message["rollout"]["turns"] == [{"token_ids": [3], "finish_reason": "stop"}]


def test_what_json_cannot_hold_is_sent_as_text_or_null():
    odd = {"when": datetime.date(2026, 1, 2), "image": b"\xff", "ratio": math.nan, "where": Path("/x")}
    task = Task("t", "2+2?", None, {**odd, "other": object()})
    told = sent(wire.request_of(Rollout("t/0", "t", task, task.messages)))["rollout"]["task"]["metadata"]
    assert {**told, "other": None} == {
        "when": "2026-01-02",
        "image": "_w==",
        "ratio": None,
        "where": "/x",
        "other": None,
    }


@pytest.mark.parametrize("score", SCORES, ids=lambda score: score.status)
def test_a_score_comes_back_as_it_was(score):
    assert wire.score_of(sent(wire.verdict_of(score))) == score


@given(st.recursive(st.none() | st.floats() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_nothing_but_a_number_under_score_is_a_number(answer):
    try:
        score = wire.score_of(answer)
    except EvaluatorError as error:
        assert error.kind == "bad_response"
    else:
        assert score.value is None or score.value == answer["score"]


def test_the_shortest_verdict_is_a_score():
    assert wire.score_of({"score": 1}) == Score(1.0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([0.5], 'neither "score" nor "status"'),
        ({"result": 1}, 'neither "score" nor "status"'),
        ({"score": "0.5"}, "score of the answer: Input should be a valid number"),
        ({"score": True}, "score of the answer"),
        ({"score": math.nan}, "score of the answer: Input should be a finite number"),
        ({"score": None}, "contradicts itself"),
        ({"score": 0.5, "status": "failed"}, "contradicts itself"),
        ({"status": "failed"}, "contradicts itself"),
        ({"status": "great", "score": 1}, "status of the answer"),
        ({"score": 0.5, "version": "rft.evaluate/2"}, "version of the answer"),
        ({"status": "failed", "failure": {"kind": "sad", "detail": ""}}, "failure.kind of the answer"),
        ({"score": 1, "parts": {"a": {"score": None}}}, "contradicts itself"),
    ],
)
def test_what_is_not_a_verdict_is_never_a_number(answer, said):
    with pytest.raises(EvaluatorError, match=said) as raised:
        wire.score_of(answer)
    assert (raised.value.kind, raised.value.retryable) == ("bad_response", False)


def test_keys_of_a_later_minor_version_are_passed_over():
    assert wire.score_of({"score": 1, "confidence": 0.5}) == Score(1.0)


def test_the_schema_file_is_these_models():
    told = "write it anew: json.dumps(rft.http.wire.json_schema(), indent=2)"
    assert json.loads(SCHEMA.read_text()) == wire.json_schema(), told


def test_what_we_send_fits_the_schema_that_other_languages_read():
    schema_of("WireRequest").validate(sent(wire.request_of(ROLLOUT)))
    for score in SCORES:
        schema_of("WireVerdict").validate(sent(wire.verdict_of(score)))
    with pytest.raises(jsonschema.ValidationError):
        schema_of("WireVerdict").validate({"score": "high"})

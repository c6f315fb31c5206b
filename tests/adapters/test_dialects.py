"""Each dialect against a loopback service that answers as the vendor's documentation shows."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from rft import Limits, Message, Rollout, Task
from rft.adapters.dialects import BedrockLambda, GoogleReward, OpenAIEndpoint
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Use
from rft.scoring.runner import ScoringRunner
from rft.testing.fake_api import FakeAPI, Reply, garbage, server_error

TASK = Task(
    "france",
    (Message("system", "Be brief."), Message("user", "What is the capital of France?")),
    "Paris",
    {"level": 2, "asked": datetime.date(2026, 1, 2)},
)
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"q": "France"}'}}


def rollout(text='{"city": "Paris"}', calls=()):
    said = Message("assistant", text, tool_calls=calls)
    return Rollout("france/0", "france", TASK, (*TASK.messages, said), weight_version=3)


@pytest.fixture
def api():
    with FakeAPI() as api:
        yield api


def judged(kind, api, one=None, **options):
    judge = kind(url=f"{api.url}/score", limits=Limits(attempts=1), **options)

    async def run():
        async with ScoringRunner(judge) as runner:
            return await runner.score(one or rollout())

    return asyncio.run(run())


def test_an_azure_endpoint_grader_gets_sample_item_and_trace_and_its_score_is_the_score(api):
    api.reply({"score": 0.75})
    assert judged(OpenAIEndpoint, api, rollout(calls=(CALL,))).value == 0.75
    body = api.requests[0].json()
    assert set(body) == {"sample", "item", "trace_id"}
    assert body["sample"]["output_text"] == '{"city": "Paris"}'
    assert body["sample"]["output_json"] == {"city": "Paris"}
    assert body["sample"]["output_tools"] == [CALL]
    assert body["sample"]["choices"][0]["finish_reason"] == "tool_calls"
    assert body["item"]["reference"] == "Paris"
    assert body["item"]["asked"] == "2026-01-02"
    assert body["item"]["messages"][1]["content"] == "What is the capital of France?"
    assert body["trace_id"].startswith("trace_")
    assert judged(OpenAIEndpoint, api).value == 0.75
    assert api.requests[1].json()["trace_id"] == body["trace_id"]


def test_a_cloud_run_reward_gets_the_documented_example_and_its_reward_is_the_score(api):
    api.reply({"reward": -1.0, "user_requested_aux_info": "wrong city"})
    got = judged(GoogleReward, api, rollout("London"))
    assert (got.value, got.reason) == (-1.0, "wrong city")
    assert api.requests[0].json() == {
        "example": {
            "contents": [{"role": "user", "parts": [{"text": "What is the capital of France?"}]}],
            "systemInstruction": {"parts": [{"text": "Be brief."}]},
            "references": {"reference": "Paris", "level": 2, "asked": "2026-01-02"},
        },
        "response": {"role": "model", "parts": [{"text": "London"}]},
        "metadata": {"step": 3, "tuning_job_id": 0},
    }


def test_a_reward_that_google_would_cut_to_its_range_is_a_failure(api):
    api.reply({"reward": 7.0})
    assert judged(GoogleReward, api).failure.kind == "bad_response"
    assert judged(GoogleReward, api, range=(0, 10)).value == 7.0


def test_a_reward_lambda_gets_a_list_of_one_sample_and_its_metrics_are_metrics(api):
    api.reply(
        [
            {
                "id": "france/0",
                "aggregate_reward_score": 0.85,
                "metrics_list": [{"name": "accuracy", "value": 0.9, "type": "Reward"}],
            }
        ]
    )
    got = judged(BedrockLambda, api, rollout("Paris"))
    assert (got.value, got.metrics) == (0.85, {"accuracy": 0.9})
    (event,) = api.requests[0].json()
    assert event["id"] == "france/0"
    assert event["messages"][-1] == {"role": "assistant", "content": "Paris"}
    assert event["metadata"] == {"reference_answer": "Paris", "level": 2, "asked": "2026-01-02"}
    assert event["reference_answer"] == "Paris"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (
            Reply({"errorMessage": "division by zero"}, headers={"X-Amz-Function-Error": "Unhandled"}),
            "server",
        ),
        (Reply({"errorMessage": "Task timed out after 3.00 seconds"}), "server"),
        ([{"id": "other/0", "aggregate_reward_score": 1.0}], "bad_response"),
        ([{"id": "france/0"}], "bad_response"),
        ([], "bad_response"),
        ({"aggregate_reward_score": 1.0}, "bad_response"),
    ],
)
def test_what_a_lambda_answers_instead_of_a_score_is_no_number(api, answer, kind):
    api.reply(answer)
    got = judged(BedrockLambda, api)
    assert (got.value, got.failure.kind) == (None, kind)


@pytest.mark.parametrize("kind", [OpenAIEndpoint, GoogleReward, BedrockLambda])
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"score": None, "reward": None},
        {"score": "0.5", "reward": "0.5"},
        {"score": True, "reward": True},
        [1.0],
        0.5,
        garbage(),
        server_error(503),
        Reply({"error": {"message": "no"}}, 500),
    ],
)
def test_no_other_answer_makes_a_number(api, kind, answer):
    api.reply(answer)
    got = judged(kind, api)
    assert got.value is None
    assert got.failure.kind in ("bad_response", "server")


@pytest.mark.parametrize("name", ["openai_endpoint", "google_reward", "bedrock_lambda"])
def test_recipes_find_each_by_its_name(name):
    made = resolve_evaluator(Use(use=name, **{"with": {"url": "https://grader.example/score"}}))
    assert made.name == name
    assert "Cannot carry over" in type(made).__doc__

"""Models behind an API: what is sent, what is tried again, and what is a failure instead of a zero."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from rft.environment import Environment, Observation, Step
from rft.environments import SingleTurn
from rft.errors import EndpointError, ServeError
from rft.recipe.schema import RolloutSpec
from rft.rollout.collect import collect
from rft.rollout.endpoint import NUM_TOKENS, Endpoint, EndpointPlayer
from rft.types import Message, Score, Task

Handler = Callable[[httpx.Request], httpx.Response]
ADDRESS = "http://api.test/v1#clever"
TASK = Task("t", (Message("user", "2+2?"),), reference="4")


def chat(text: str, finish_reason: str = "stop", tokens: int | None = 3, **message: Any) -> httpx.Response:
    body = {"choices": [{"message": {"content": text, **message}, "finish_reason": finish_reason}]}
    return httpx.Response(200, json=body | ({"usage": {"completion_tokens": tokens}} if tokens else {}))


class Server:
    """Answers in order with what it was given, the last answer over and over; keeps what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.asked.append(json.loads(request.content) if request.content else {})
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def endpoint(handler: Handler, address: str = ADDRESS, **options: Any) -> Endpoint:
    return Endpoint(address, transport=httpx.MockTransport(handler), pause_s=0.0, **options)


def player(
    handler: Handler, environment: type[Environment] = SingleTurn, *, api_key: str | None = None, **spec: Any
) -> EndpointPlayer:
    return EndpointPlayer(endpoint(handler, api_key=api_key), environment, RolloutSpec(**spec))


async def play(with_player: EndpointPlayer, task: Task = TASK, seed: int = 5, temperature: float = 1.0):
    return await with_player.play(task, group_id="g", index=0, seed=seed, temperature=temperature)


async def test_a_single_turn_asks_once_with_the_recipes_sampling():
    server = Server(chat("4"))
    rollout = await play(player(server, max_new_tokens=20, stop=["\n"], api_key="secret"), seed=2**40 + 5)
    assert (rollout.text, rollout.stop, rollout.turns) == ("4", "eos", ())
    assert rollout.metrics[NUM_TOKENS] == 3
    assert str(server.requests[0].url) == "http://api.test/v1/chat/completions"
    assert server.requests[0].headers["authorization"] == "Bearer secret"
    assert server.asked == [
        {
            "model": "clever",
            "messages": [{"role": "user", "content": "2+2?"}],
            "max_tokens": 20,
            "temperature": 1.0,
            "seed": 5,
            "stop": ["\n"],
        }
    ]


async def test_greedy_answers_need_no_seed():
    server = Server(chat("4"))
    await play(player(server), temperature=0.0)
    assert "seed" not in server.asked[0]


class Twice(Environment):
    async def reset(self, task, *, seed):
        return Observation(task.messages, tools=[{"type": "function", "function": {"name": "look"}}])

    async def step(self, action):
        if action.tool_calls:
            return Step(messages=[Message("tool", "it is 4", tool_call_id=action.tool_calls[0]["id"])])
        return Step(done=True, reward=1.0)


async def test_several_turns_send_the_whole_conversation_and_tool_calls_come_through():
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    server = Server(chat("", tool_calls=[call], tokens=7), chat("4"))
    rollout = await play(player(server, Twice))
    assert rollout.stop == "env_done"
    assert rollout.metrics[NUM_TOKENS] == 10
    assert [message.role for message in rollout.messages] == ["user", "assistant", "tool", "assistant"]
    assert server.asked[0]["tools"] == [{"type": "function", "function": {"name": "look"}}]
    assert server.asked[1]["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "it is 4", "tool_call_id": "c1"},
    ]
    assert (server.asked[0]["seed"], server.asked[1]["seed"]) == (5, 6)


async def test_a_plain_prompt_goes_to_the_completions_api():
    server = Server(httpx.Response(200, json={"choices": [{"text": " 4", "finish_reason": "stop"}]}))
    rollout = await play(player(server), Task("t", "2+2="))
    assert rollout.text == " 4"
    assert NUM_TOKENS not in rollout.metrics
    assert server.requests[0].url.path == "/v1/completions"
    assert server.asked[0]["prompt"] == "2+2="


async def test_an_answer_cut_by_the_limit_is_truncated_not_failed():
    rollout = await play(player(Server(chat("4 because", "length"))))
    assert rollout.truncated
    assert rollout.text == "4 because"


@pytest.mark.parametrize(
    "passing",
    [
        httpx.Response(429, text="slow down"),
        httpx.Response(503),
        httpx.ConnectError("refused"),
        httpx.ReadError("broken"),
    ],
)
async def test_what_may_pass_is_tried_again(passing):
    server = Server(passing, passing, chat("4"))
    assert (await play(player(server))).text == "4"
    assert len(server.asked) == 3


async def test_retry_after_is_obeyed(monkeypatch):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    server = Server(
        httpx.Response(429, headers={"retry-after": "7"}),
        httpx.Response(429, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        chat("4"),
    )
    await play(player(server))
    assert waits == [7.0, 0.0]


@pytest.mark.parametrize(
    ("answer", "kind", "tries"),
    [
        (httpx.Response(429, text="slow down"), "rate_limited", 6),
        (httpx.Response(500, text="broken"), "server", 6),
        (httpx.ConnectError("refused"), "transport", 6),
        (httpx.ReadTimeout("late"), "timeout", 1),
        (httpx.Response(400, text="the prompt is too long"), "bad_response", 1),
        (httpx.Response(200, text="<html>"), "bad_response", 1),
        (httpx.Response(200, json=[]), "bad_response", 1),
        (httpx.Response(200, json={"choices": [{}]}), "bad_response", 1),
        (chat("", "content_filter"), "bad_response", 1),
    ],
)
async def test_no_answer_is_a_failure_of_its_kind(answer, kind, tries):
    server = Server(answer)
    with pytest.raises(EndpointError) as raised:
        await play(player(server))
    assert raised.value.kind == kind
    assert len(server.asked) == tries


async def test_a_failed_answer_becomes_a_score_without_a_number_and_the_others_stand():
    def serve(request):
        asked = json.loads(request.content)["messages"][0]["content"]
        return httpx.Response(400, text="no") if asked == "3+3?" else chat("4")

    async def exact(rollout):
        return Score(float(rollout.text == rollout.task.reference))

    other = Task("u", (Message("user", "3+3?"),), reference="6")
    groups = await collect(
        player(serve), exact, [TASK, other], group_size=2, seed_parts=(0,), temperature=1.0
    )
    assert [[score.value for score in group.scores] for group in groups] == [[1.0, 1.0], [None, None]]
    (failure, _) = [score.failure for score in groups[1].scores]
    assert (failure.kind, failure.detail) == ("bad_response", "endpoint: HTTP 400: no")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(401), "--api-key-env"),
        (httpx.Response(404, text="no such model"), "refuses the model 'clever'"),
    ],
)
async def test_a_wrong_key_or_model_stops_everything(answer, said):
    with pytest.raises(ServeError, match=said):
        await play(player(Server(answer)))


async def test_no_more_conversations_than_allowed_run_at_once():
    import asyncio

    running = most = 0

    async def serve(request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return chat("4")

    async def score(rollout):
        return Score(1.0)

    limited = EndpointPlayer(endpoint(serve), SingleTurn, RolloutSpec(), concurrency=3)
    await collect(limited, score, [TASK], group_size=12, seed_parts=(0,), temperature=1.0)
    assert most == 3


def models(*names: str) -> httpx.Response:
    return httpx.Response(200, json={"data": [{"id": name} for name in names]})


async def test_the_only_model_served_needs_no_name():
    found = endpoint(Server(models("clever")), "http://api.test/v1")
    await found.connect()
    assert found.model == "clever"


async def test_a_server_without_a_list_of_models_is_believed():
    found = endpoint(Server(httpx.Response(404)))
    await found.connect()
    assert found.model == "clever"


@pytest.mark.parametrize(
    ("answer", "address", "said"),
    [
        (httpx.ConnectError("refused"), ADDRESS, "does not answer .*refused"),
        (models("a", "b"), ADDRESS, "has no model 'clever'.*: a, b"),
        (models("a", "b"), "http://api.test/v1", "more than one model.*#MODEL: a, b"),
        (httpx.Response(404), "http://api.test/v1", "does not tell"),
        (httpx.Response(403), ADDRESS, "--api-key-env"),
    ],
)
async def test_an_endpoint_that_cannot_be_used_is_told_before_anything_runs(answer, address, said):
    with pytest.raises(ServeError, match=said):
        await endpoint(Server(answer), address).connect()

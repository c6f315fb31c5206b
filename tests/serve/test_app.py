"""OpenAI's own client against a live server on the session's engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from rft.errors import ServeError
from rft.recipe.schema import ServeSpec
from rft.serve.server import Server, bind
from rft.serve.versions import HEADER

pytestmark = pytest.mark.engine

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Sort: 3 1 2"}]}
ON = {"extra_body": {"ignore_eos": True}}


@contextmanager
def serving(engine, spec: ServeSpec | None = None) -> Iterator[str]:
    from rft.serve.app import build

    server = Server(lambda: build(engine, spec or ServeSpec(), "tiny"), bind("127.0.0.1", 0))
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture(scope="module")
def url(engine) -> Iterator[str]:
    with serving(engine) as url:
        yield url


@pytest.fixture
def client(url) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60)


@pytest.fixture
def publish(engine) -> Iterator[Callable[[float], int]]:
    """Scales a weight by a factor as an optimizer would write it, and gives the new version."""
    weight = engine.model.model.norm.weight
    kept = weight.data.clone()

    def change(factor: float) -> int:
        with engine.paused():
            weight.data.mul_(factor)
            engine.weights_changed(engine.version + 1)
        return engine.version

    yield change
    weight.data.copy_(kept)
    change(1.0)


def test_a_chat_answer_says_which_weights_made_it(client, engine):
    raw = client.chat.completions.with_raw_response.create(**ASK, max_tokens=5, **ON)
    answer = raw.parse()
    assert answer.usage.completion_tokens == 5
    assert answer.model == "tiny"
    assert raw.headers[HEADER] == str(engine.version)
    assert answer.rft == {
        "weight_version": engine.version,
        "weight_versions": [[engine.version, 0, 5]],
    }


def test_the_next_answer_after_an_update_carries_the_new_version(client, publish):
    before = client.chat.completions.create(**ASK, max_tokens=2).rft["weight_version"]
    version = publish(1.001)
    raw = client.chat.completions.with_raw_response.create(**ASK, max_tokens=2)
    assert before < version
    assert raw.headers[HEADER] == str(version)
    assert raw.parse().rft["weight_version"] == version


def test_new_weights_change_the_answer_at_once(client, publish):
    def first_logprob() -> float:
        answer = client.chat.completions.create(**ASK, max_tokens=1, temperature=0, logprobs=True)
        return answer.choices[0].logprobs.content[0].logprob

    before, again = first_logprob(), first_logprob()
    publish(4.0)
    changed = first_logprob()
    publish(0.25)
    assert again == pytest.approx(before, abs=1e-5)
    assert abs(changed - before) > 0.01
    assert first_logprob() == pytest.approx(before, abs=1e-5)


def test_a_stream_comes_in_pieces_and_ends_with_the_version(client, engine):
    letters = {"extra_body": {"structured_outputs": {"regex": "[a-z]{6}"}}}  # each token is a whole character
    chunks = list(
        client.chat.completions.create(
            **ASK, max_tokens=6, stream=True, stream_options={"include_usage": True}, **letters
        )
    )
    told = [getattr(chunk, "rft", None) for chunk in chunks]
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) == 6
    assert told[0] is None
    assert told[-1] == {"weight_version": engine.version, "weight_versions": [[engine.version, 0, 6]]}
    assert chunks[-1].usage.completion_tokens == 6
    assert chunks[-2].choices[0].finish_reason == "length"


def test_a_streamed_answer_ends_with_done_for_clients_that_read_the_lines(url):
    answer = httpx.post(f"{url}/v1/chat/completions", json={**ASK, "max_tokens": 3, "stream": True})
    events = answer.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert "rft" in json.loads(events[-2].removeprefix("data: "))
    assert HEADER in answer.headers


def test_completions_with_several_prompts_and_choices(client):
    answer = client.completions.create(model="tiny", prompt=["ab", "cd"], n=2, max_tokens=3, **ON)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [spans[-1][2] for spans in answer.rft["choices"]] == [3, 3, 3, 3]


def test_logprobs_are_those_after_temperature(client):
    def likeliest(temperature: float) -> list[float]:
        answer = client.chat.completions.create(
            **ASK, max_tokens=1, temperature=temperature, logprobs=True, top_logprobs=5, seed=1
        )
        return [token.logprob for token in answer.choices[0].logprobs.content[0].top_logprobs]

    warm, cold = likeliest(1.0), likeliest(0.25)
    # Differences of logits are divided by the temperature; the normaliser cancels.
    assert cold[0] - cold[4] == pytest.approx(4 * (warm[0] - warm[4]), rel=1e-3)


def test_a_json_schema_is_held(client):
    schema = {
        "type": "object",
        "properties": {"urgent": {"type": "boolean"}, "team": {"enum": ["billing", "login"]}},
        "required": ["urgent", "team"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        **ASK,
        max_tokens=400,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "ticket", "schema": schema}},
    )
    said = json.loads(answer.choices[0].message.content)
    assert isinstance(said["urgent"], bool) and said["team"] in ("billing", "login")


def test_a_named_function_is_called_with_arguments_that_fit(client):
    function = {
        "name": "move",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"to": {"enum": ["left", "right"]}},
            "required": ["to"],
            "additionalProperties": False,
        },
    }
    answer = client.chat.completions.create(
        **ASK,
        max_tokens=400,
        seed=1,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "move"}},
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "move"
    assert json.loads(call.function.arguments)["to"] in ("left", "right")


def test_models_metrics_health_and_tokenize(client, url):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert "vllm:generation_tokens_total" in httpx.get(f"{url}/metrics").text
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.post(f"{url}/tokenize", json={"model": "tiny", "prompt": "abc"}).json()["count"] == 3


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="`other` does not exist") as error:
        client.chat.completions.create(**{**ASK, "model": "other"})
    assert HEADER in error.value.response.headers


def test_a_prompt_that_does_not_fit_is_the_clients_error(client):
    with pytest.raises(openai.BadRequestError, match="4096"):
        client.completions.create(model="tiny", prompt="x" * 4200, max_tokens=5)


def test_updates_lose_nothing_that_is_in_flight(client, engine, publish):
    tokens, started = 300, threading.Event()

    def streamed(number: int) -> tuple[int, Any]:
        told, usage = None, None
        for chunk in client.chat.completions.create(
            **ASK,
            max_tokens=tokens,
            stream=True,
            stream_options={"include_usage": True},
            **ON,
        ):
            started.set()
            told, usage = getattr(chunk, "rft", told), chunk.usage
        return usage.completion_tokens, told

    def whole(number: int) -> tuple[int, Any]:
        answer = client.chat.completions.create(**ASK, max_tokens=tokens, n=2, **ON)
        return answer.usage.completion_tokens // 2, answer.rft

    before = engine.version
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(streamed if number % 2 else whole, number) for number in range(8)]
        started.wait()
        for _ in range(4):
            publish(1.001)
        answers = [future.result() for future in asked]
    assert [count for count, _ in answers] == [tokens] * 8
    spanned = 0
    for _, told in answers:
        for spans in told.get("choices", [told["weight_versions"]]):
            assert spans[0][1] == 0 and spans[-1][2] == tokens
            assert all(end == start for (_, _, end), (_, start, _) in zip(spans, spans[1:], strict=False))
            versions = [version for version, _, _ in spans]
            assert versions == sorted(set(versions)) and before <= versions[0] and versions[-1] <= before + 4
            spanned += len(spans) > 1
        assert told["weight_version"] <= engine.version
    assert spanned > 0


def unfinished(engine) -> int:
    return engine.call(engine.llm.get_num_unfinished_requests)


def wait_until_idle(engine) -> bool:
    pause = threading.Event()
    return any(unfinished(engine) == 0 or pause.wait(0.05) for _ in range(200))


def test_a_client_that_hangs_up_frees_the_engine(client, engine):
    stream = client.chat.completions.create(**ASK, max_tokens=480, stream=True, **ON)
    next(iter(stream))
    in_flight = unfinished(engine)
    stream.close()
    assert in_flight == 1
    assert wait_until_idle(engine)


def test_a_client_that_gives_up_waiting_frees_the_engine(url, engine):
    with engine.paused(), pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{url}/v1/chat/completions", json={**ASK, "max_tokens": 480, **ON["extra_body"]}, timeout=0.5
        )
    assert wait_until_idle(engine)


def test_requests_may_share_an_id(client):
    def ask(_: int) -> int:
        return client.chat.completions.create(
            **ASK, max_tokens=20, extra_headers={"X-Request-Id": "same"}, **ON
        ).usage.completion_tokens

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [20] * 4


def test_two_servers_on_two_loops_share_the_engine(client, engine):
    with serving(engine) as other, ThreadPoolExecutor(6) as pool:
        second = openai.OpenAI(base_url=f"{other}/v1", api_key="unused", max_retries=0)

        def ask(number: int) -> int:
            asked = client if number % 2 else second
            return asked.chat.completions.create(**ASK, max_tokens=30, **ON).usage.completion_tokens

        assert list(pool.map(ask, range(6))) == [30] * 6


def test_with_a_key_clients_must_send_it(engine, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    with serving(engine, ServeSpec(api_key_env="SOME_KEY", model_name="mine")) as url:
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").models.list()
        right = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret")
        assert [model.id for model in right.models.list()] == ["mine"]


def test_an_unknown_parser_is_named_with_its_nearest(engine):
    from rft.serve.app import check

    with pytest.raises(ServeError, match="no parser 'hermez'; did you mean 'hermes'"):
        check(ServeSpec(tool_call_parser="hermez"))


def test_tools_may_be_offered_without_naming_a_parser(client):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    answer = client.chat.completions.create(**ASK, max_tokens=5, tools=tools, **ON)
    assert answer.usage.completion_tokens == 5


def test_a_parser_that_needs_tokens_the_model_lacks_is_a_user_error(engine):
    spec = ServeSpec(reasoning_parser="deepseek_r1")
    with pytest.raises(ServeError, match="deepseek_r1 cannot be used with"), serving(engine, spec):
        pass


def test_the_adapter_answers_under_the_models_name_and_the_base_under_base(engine, tiny_model, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path)
    with engine.paused():
        engine.add_adapter(tmp_path)
        engine.weights_changed(engine.version + 1)
    try:
        with serving(engine) as url:
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)

            def first_logprob(**asked: Any) -> float:
                answer = client.completions.create(
                    prompt="ab", max_tokens=1, temperature=0, logprobs=1, **asked
                )
                return answer.choices[0].logprobs.token_logprobs[0]

            assert [model.id for model in client.models.list()] == ["tiny", "base"]
            adapted, base = first_logprob(model="tiny"), first_logprob(model="base")
            assert abs(adapted - base) > 0.01
            assert first_logprob(model=None) == pytest.approx(adapted, abs=1e-5)
            ids = torch.tensor([httpx.post(f"{url}/tokenize", json={"prompt": "ab"}).json()["tokens"]])
            with torch.no_grad():
                reference = model.eval()(ids).logits[0, -1].log_softmax(-1).max().item()
            assert adapted == pytest.approx(reference, abs=1e-3)
    finally:
        engine.policy_adapter = None
        engine.call(lambda: engine.llm.remove_lora(1))

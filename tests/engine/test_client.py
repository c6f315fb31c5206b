"""The embedded engine as vLLM's serving layer sees it: admission, health, and what happens when it dies."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.engine


class DyingLLM:
    """The session's vLLM engine up to its first step, which fails; the real one takes no harm."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._asked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def set_weight_version(self, version: str) -> None:
        pass

    def add_request(self, *_: Any, **__: Any) -> None:
        self._asked = True

    def has_unfinished_requests(self) -> bool:
        return self._asked

    def step(self) -> None:
        raise RuntimeError("the device is gone")


@pytest.fixture
def dying(engine):
    from rft.engine.vllm import VLLMEngine

    return VLLMEngine(DyingLLM(engine.llm))


@pytest.fixture
def client(engine):
    return make_client(engine)


def make_client(engine):
    from rft.engine.client import InProcessClient
    from rft.serve.versions import watch

    return InProcessClient(engine, watch=watch)


def params(**arguments: Any):
    from vllm.sampling_params import SamplingParams

    return SamplingParams(**{"max_tokens": 5, "ignore_eos": True, **arguments})


PROMPT = {"prompt_token_ids": [5, 6, 7]}


async def collect(stream) -> list[Any]:
    return [output async for output in stream]


async def test_it_generates_and_reports_spans(client, engine):
    outputs = await collect(client.generate(PROMPT, params(), "r1"))
    assert outputs[-1].finished
    assert [(int(s.version), s.start, s.end) for s in outputs[-1].outputs[0].weight_versions] == [
        (engine.version, 0, 5)
    ]


async def test_a_prepared_request_runs_under_an_id_of_its_own(client, engine):
    def prepared():
        return client.input_processor.process_inputs("same", PROMPT, params(), supported_tasks=("generate",))

    both = [collect(client.generate(prepared(), params(), "same")) for _ in range(2)]
    assert [outputs[-1].finished for outputs in await asyncio.gather(*both)] == [True, True]


async def test_abort_ends_a_request_by_the_callers_id(client):
    from vllm.exceptions import VLLMServerError

    stream = client.generate(PROMPT, params(max_tokens=480), "r1")
    await anext(stream)
    await client.abort("r1")
    with pytest.raises(VLLMServerError, match="aborted"):
        await collect(stream)


async def test_input_that_streams_is_refused(client):
    async def pieces():
        yield PROMPT

    with pytest.raises(NotImplementedError, match="arrive in pieces"):
        await collect(client.generate(pieces(), params(), "r1"))


async def test_a_bad_parameter_is_the_callers_error(client):
    from vllm.exceptions import VLLMClientError

    with pytest.raises(VLLMClientError, match="logprobs"):
        await collect(client.generate(PROMPT, params(logprobs=10_000), "r1"))


async def test_the_queue_limit_counts_served_requests_and_leaves_rollouts_alone(client, engine, monkeypatch):
    from vllm.exceptions import QueueOverflowError

    from rft.engine.base import Sampling

    monkeypatch.setattr(engine.llm.vllm_config.scheduler_config, "max_num_queued_reqs", 1)
    rollouts = [
        asyncio.create_task(engine.generate([5, 6, 7], Sampling(max_tokens=100, extra={"ignore_eos": True})))
        for _ in range(3)
    ]
    first = client.generate(PROMPT, params(max_tokens=480), "r1")
    await anext(first)
    with pytest.raises(QueueOverflowError):
        client.check_admission()
    with pytest.raises(QueueOverflowError):
        await collect(client.generate(PROMPT, params(), "r2"))
    await first.aclose()
    assert (await collect(client.generate(PROMPT, params(), "r3")))[-1].finished
    assert {len(done.token_ids) for done in await asyncio.gather(*rollouts)} == {100}


async def test_caches_and_adapters_are_reached_without_blocking_the_loop(client, engine):
    with engine.paused():
        waiting = asyncio.create_task(client.reset_prefix_cache())
        await asyncio.sleep(0.05)  # the loop runs on while the engine is held
        assert not waiting.done()
    assert await waiting is True
    assert await client.get_supported_tasks() == ("generate",)
    assert await client.get_weight_version() == str(engine.version)
    assert await client.is_paused() is False


async def test_what_would_take_the_engine_from_the_trainer_is_refused(client):
    for call in (client.sleep, client.wake_up, client.pause_generation, client.release_kv_cache_memory):
        with pytest.raises(NotImplementedError, match="shared with its trainer"):
            await call()


async def test_a_dead_engine_fails_requests_in_flight_and_later_ones(dying):
    from vllm.exceptions import VLLMServerError
    from vllm.v1.engine.exceptions import EngineDeadError

    client = make_client(dying)
    assert client.is_running
    await client.check_health()
    with pytest.raises(VLLMServerError, match="the device is gone"):
        await collect(client.generate(PROMPT, params(), "r1"))
    with pytest.raises(VLLMServerError, match="the device is gone"):
        await collect(client.generate(PROMPT, params(), "r2"))
    with pytest.raises(EngineDeadError):
        await client.check_health()


def test_over_http_a_dead_engine_is_a_server_error_not_a_hang(dying):
    from rft.recipe.schema import ServeSpec
    from rft.serve.app import build
    from rft.serve.server import Server, bind

    server = Server(lambda: build(dying, ServeSpec(), "tiny"), bind("127.0.0.1", 0))
    server.start()
    ask = {"model": "tiny", "prompt": "ab", "max_tokens": 5}
    answers = [httpx.post(f"{server.url}/v1/completions", json=ask, timeout=20) for _ in range(2)]
    health = httpx.get(f"{server.url}/health", timeout=20)
    server.stop()
    assert [answer.status_code for answer in answers] == [500, 500]
    assert "the device is gone" in answers[0].json()["error"]["message"]
    assert health.status_code == 503


def test_over_http_a_stream_that_dies_ends_with_an_error(dying):
    from rft.recipe.schema import ServeSpec
    from rft.serve.app import build
    from rft.serve.server import Server, bind

    server = Server(lambda: build(dying, ServeSpec(), "tiny"), bind("127.0.0.1", 0))
    server.start()
    ask = {"model": "tiny", "prompt": "ab", "max_tokens": 5, "stream": True}
    answer = httpx.post(f"{server.url}/v1/completions", json=ask, timeout=20)
    server.stop()
    assert "the device is gone" in answer.text

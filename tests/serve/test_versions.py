"""The header and the body field, on small ASGI apps that stand for vLLM's."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from rft.serve.versions import HEADER, WeightVersions, watch

DONE = b"data: [DONE]\n\n"


def output(finished: bool, **spans: list[tuple[int, int, int]]) -> SimpleNamespace:
    """A stand-in for vLLM's RequestOutput; `c0=[...]` are the spans of choice 0."""
    choices = [
        SimpleNamespace(
            index=int(name[1:]),
            weight_versions=[SimpleNamespace(version=str(v), start=s, end=e) for v, s, e in value],
        )
        for name, value in spans.items()
    ]
    running = [SimpleNamespace(index=0, weight_versions=None)]
    return SimpleNamespace(finished=finished, outputs=choices or running)


async def outputs(*items: SimpleNamespace):
    for item in items:
        yield item


async def ask(endpoint: Any, path: str = "/v1/chat/completions", version: int = 3) -> httpx.Response:
    app = WeightVersions(Starlette(routes=[Route(path, endpoint)]), engine=SimpleNamespace(version=version))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as client:
        return await client.get(path)


async def test_a_json_answer_names_the_newest_version_that_sampled_it_and_all_spans():
    async def endpoint(_):
        async for _ in watch(outputs(output(False), output(True, c0=[(2, 0, 5), (4, 5, 9)]))):
            pass
        return JSONResponse({"id": "x", "choices": []})

    answer = await ask(endpoint, version=9)
    assert answer.headers[HEADER] == "4"
    assert answer.json() == {
        "id": "x",
        "choices": [],
        "rft": {"weight_version": 4, "weight_versions": [[2, 0, 5], [4, 5, 9]]},
    }
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_several_choices_have_their_spans_in_the_order_of_the_choices():
    async def endpoint(_):
        first = watch(outputs(output(False, c1=[(1, 0, 2)]), output(True, c0=[(1, 0, 3)])))
        second = watch(outputs(output(True, c0=[(1, 0, 1), (2, 1, 4)], c1=[(2, 0, 4)])))
        await anext(first)
        await anext(second)  # finishes before the first prompt does
        await anext(first)
        return JSONResponse({"choices": []})

    told = (await ask(endpoint, "/v1/completions")).json()["rft"]
    assert told == {
        "weight_version": 2,
        "weight_versions": [[1, 0, 3]],
        "choices": [[[1, 0, 3]], [[1, 0, 2]], [[1, 0, 1], [2, 1, 4]], [[2, 0, 4]]],
    }


async def test_beam_search_is_told_the_newest_version_alone():
    async def endpoint(_):
        for version in (1, 2, 2):
            async for _ in watch(outputs(output(True, c0=[(version, 0, 1)]))):
                pass
        return JSONResponse({"choices": []})

    assert (await ask(endpoint, "/v1/completions")).json()["rft"] == {"weight_version": 2}


async def test_a_stream_is_passed_on_piece_by_piece_and_only_its_last_chunks_are_added_to():
    may_finish = asyncio.Event()

    async def endpoint(_):
        async def chunks():
            async for item in watch(outputs(output(False), output(True, c0=[(3, 0, 2)]))):
                yield b'data: {"n":1}\n\n'
                if not item.finished:
                    await may_finish.wait()
            yield b'data: {"usage":{}}\n\n' + DONE

        return StreamingResponse(chunks(), media_type="text/event-stream")

    sent: asyncio.Queue[Any] = asyncio.Queue()
    app = WeightVersions(
        Starlette(routes=[Route("/v1/completions", endpoint)]), engine=SimpleNamespace(version=3)
    )
    scope = {"type": "http", "method": "GET", "path": "/v1/completions", "headers": [], "query_string": b""}
    running = asyncio.create_task(app(scope, asyncio.Event().wait, sent.put))
    head, first = await sent.get(), await sent.get()
    assert dict(head["headers"])[HEADER.lower().encode()] == b"3"
    assert first["body"] == b'data: {"n":1}\n\n'  # while the second is not even sampled
    may_finish.set()
    rest = [(await sent.get())["body"] for _ in range(3)]
    await running
    told = b',"rft":{"weight_version":3,"weight_versions":[[3,0,2]]}}'
    assert rest == [b'data: {"n":1' + told + b"\n\n", b'data: {"usage":{}' + told + b"\n\n" + DONE, b""]


async def test_answers_that_sampled_nothing_get_the_present_version_as_a_header_alone():
    async def endpoint(_):
        return JSONResponse({"error": {"message": "no"}}, status_code=404)

    answer = await ask(endpoint, version=7)
    assert (answer.status_code, answer.headers[HEADER]) == (404, "7")
    assert answer.json() == {"error": {"message": "no"}}


@pytest.mark.parametrize("path", ["/health", "/metrics"])
async def test_other_routes_are_left_alone(path):
    async def endpoint(_):
        return PlainTextResponse("ok")

    answer = await ask(endpoint, path)
    assert HEADER not in answer.headers and answer.text == "ok"


@given(st.binary(max_size=60))
def test_bytes_that_are_no_json_object_pass_unchanged(body):
    async def endpoint(_):
        async for _ in watch(outputs(output(True, c0=[(0, 0, 1)]))):
            pass
        return Response(body, media_type="application/json")

    answer = asyncio.run(ask(endpoint))
    if body.startswith(b"{") and body.endswith(b"}"):
        assert answer.content.startswith(body[:-1])
    else:
        assert answer.content == body


async def test_answers_made_at_the_same_time_do_not_mix():
    async def one(version: int) -> int:
        async def endpoint(_):
            async for _ in watch(outputs(output(False), output(True, c0=[(version, 0, 1)]))):
                await asyncio.sleep(0)
            return JSONResponse({"choices": []})

        return json.loads((await ask(endpoint)).content)["rft"]["weight_version"]

    assert await asyncio.gather(*map(one, range(1, 20))) == list(range(1, 20))

"""Faults for the operations stage, put between an evaluator's HTTP client and the network.

Nothing is sent: while a fault is on, every request made through httpx in this process is answered by it. The
faults are those of real services, and some are traps: a page with a number in it, an error with status 200,
a redirect to a place that would give full marks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

_ELSEWHERE = "redirected.invalid"
_FULL_MARKS = b'{"score": 1.0, "value": 1.0, "result": 1.0}'
_HANG_S = 3600.0
_TELLING = ("authorization", "x-api-key", "api-key", "cookie", "proxy-authorization")

Answer = Callable[[httpx.Request], httpx.Response]


def _reply(status: int, body: bytes, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: httpx.Response(status, headers=named, content=body, request=request)


def _reset(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("connection reset by peer", request=request)


def _echo(request: httpx.Request) -> httpx.Response:
    """A server that shows the request in its error page, secrets included."""
    seen = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    return httpx.Response(500, content=f"{request.url}\n{seen}".encode(), request=request)


FAULTS: dict[str, Answer | None] = {
    "429": _reply(429, b'{"error": "too many requests"}', retry_after="0"),
    "500": _echo,
    "503": _reply(503, b"upstream is down, score 0"),
    "401": _reply(401, b'{"error": "bad token"}'),
    "garbage": _reply(200, b"<!doctype html><title>1</title><p>It works! 1.0</p>", content_type="text/html"),
    "truncated JSON": _reply(200, b'{"score": 0.', content_type="application/json"),
    "error with status 200": _reply(200, b'{"error": "overloaded"}', content_type="application/json"),
    "redirect": _reply(302, b"", location=f"https://{_ELSEWHERE}/score"),
    "reset": _reset,
    "hang": None,
}
"""By name; None never answers."""


@dataclass
class Injected:
    """What went through while a fault was on."""

    requests: int = 0
    followed_redirect: bool = False
    secrets: set[str] = field(default_factory=set)
    """Values of headers that carry credentials."""


@contextmanager
def injected(fault: str) -> Iterator[Injected]:
    """Answers every httpx request of this process with a fault, until left."""
    seen = Injected()
    answer = FAULTS[fault]

    def note(request: httpx.Request) -> httpx.Response | None:
        seen.requests += 1
        for name in _TELLING:
            value = request.headers.get(name, "").rpartition(" ")[2]
            if len(value) >= 6:
                seen.secrets.add(value)
        if request.url.host == _ELSEWHERE:
            seen.followed_redirect = True
            return httpx.Response(200, content=_FULL_MARKS, request=request)
        return answer(request) if answer is not None else None

    async def asynchronous(self: object, request: httpx.Request) -> httpx.Response:
        response = note(request)
        if response is None:
            await asyncio.sleep(_HANG_S)
        assert response is not None
        return response

    def blocking(self: object, request: httpx.Request) -> httpx.Response:
        response = note(request)
        if response is None:  # in a thread that nobody can end: as long as the client itself would wait
            limit = request.extensions.get("timeout", {}).get("read")
            time.sleep(5.0 if limit is None else min(limit, 5.0))
            raise httpx.ReadTimeout("no answer", request=request)
        return response

    # The class and not the client's own transport: a user's evaluator makes its client where it likes.
    was = httpx.AsyncHTTPTransport.handle_async_request, httpx.HTTPTransport.handle_request
    httpx.AsyncHTTPTransport.handle_async_request = asynchronous  # type: ignore[method-assign]  # put back below
    httpx.HTTPTransport.handle_request = blocking  # type: ignore[method-assign]  # put back below
    try:
        yield seen
    finally:
        httpx.AsyncHTTPTransport.handle_async_request, httpx.HTTPTransport.handle_request = was  # type: ignore[method-assign]  # as it was

"""Any evaluator as a service in the language of `rft.http.wire`: in another process, on another machine.

    POST /evaluate          one rollout -> its verdict
    POST /evaluate/batch    several -> their verdicts; those of one group are settled together
    GET  /health            what is served, open to everyone

Each rollout gets one attempt: retries, and waiting while something is away, are the caller's. A verdict
without a number is an answer like any other, with status 200; 400, 401 and 413 refuse the request itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rft.evaluator import Evaluator
from rft.http import wire
from rft.scoring.runner import ScoringRunner
from rft.secrets import Secret
from rft.serve.access import RequireKey
from rft.serve.server import bind
from rft.types import Rollout, Score

_MAX_REQUEST_BYTES = 64 << 20
_GRACE_S = 5

M = TypeVar("M", bound=BaseModel)


def serve(
    evaluator: Evaluator, *, host: str, port: int, api_key: Secret | None = None, say: Callable[[str], None]
) -> None:
    """Serves until SIGINT or SIGTERM. Main thread only.

    Args:
        port: 0 takes a free one.
        api_key: what callers must send as `Authorization: Bearer ...`; anyone may ask when None.
        say: shows one line to the user.

    Raises UserError when the evaluator cannot be set up, the key is missing or the port is taken.
    """
    key = None if api_key is None else api_key.reveal()
    evaluator.limits = replace(evaluator.limits, attempts=1, break_after=None)
    runner = ScoringRunner(evaluator)
    with bind(host, port) as sock, asyncio.Runner() as loop, _sigterm_as_ctrl_c():
        if key is None and not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
            say(f"warning: {host} is reachable from other machines and no key is asked for; set --api-key")
        config = uvicorn.Config(
            build(runner, key), lifespan="off", log_config=None, timeout_graceful_shutdown=_GRACE_S
        )
        loop.run(runner.setup())
        url = _url(*sock.getsockname()[:2])
        say(f"serving {runner.name} ({runner.fingerprint}) at {url}/evaluate (Ctrl-C stops)")
        try:
            loop.run(uvicorn.Server(config).serve(sockets=[sock]))
        except KeyboardInterrupt:  # raised again by uvicorn once requests in flight are answered
            pass
        finally:
            loop.run(runner.close())


def build(runner: ScoringRunner, key: str | None = None) -> ASGIApp:
    """The ASGI app around a runner that is set up, on the event loop that serves it."""

    async def evaluate(request: Request) -> Response:
        asked = await _read(request, wire.WireRequest)
        (score,) = await _scores(runner, [wire.rollout_of(asked.rollout)])
        return JSONResponse(wire.verdict_of(score))

    async def batch(request: Request) -> Response:
        asked = await _read(request, wire.WireBatch)
        scores = await _scores(runner, [wire.rollout_of(rollout) for rollout in asked.rollouts])
        return JSONResponse({"version": wire.VERSION, "results": [wire.verdict_of(s) for s in scores]})

    async def health(request: Request) -> Response:
        told = {"status": "ok", "version": wire.VERSION, "evaluator": runner.name}
        told |= {"fingerprint": runner.fingerprint}
        return JSONResponse(told)

    routes = [
        Route("/evaluate", evaluate, methods=["POST"]),
        Route("/evaluate/batch", batch, methods=["POST"]),
        Route("/health", health),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refusal})
    return app if key is None else RequireKey(app, key)


async def _scores(runner: ScoringRunner, rollouts: Sequence[Rollout]) -> list[Score]:
    """Each rollout's score, those of one group settled together, in the order of `rollouts`."""
    scores = list(await asyncio.gather(*map(runner.score, rollouts)))
    groups: dict[str, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        groups.setdefault(rollout.group_id, []).append(place)
    for places in groups.values():
        settled = await runner.settle([rollouts[i] for i in places], [scores[i] for i in places])
        for place, score in zip(places, settled, strict=True):
            scores[place] = score
    return scores


async def _read(request: Request, model: type[M]) -> M:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_REQUEST_BYTES:
            raise HTTPException(413, f"the request is longer than {_MAX_REQUEST_BYTES:,} bytes")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise HTTPException(400, f"{where}: {first['msg']}") from error


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

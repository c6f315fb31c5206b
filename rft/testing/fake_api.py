"""A fake of somebody's API: a real HTTP server on loopback that misbehaves as told.

    with FakeAPI() as api:
        api.reply({"score": 0.5})                        # every request from now on
        api.reply(rate_limited(2), garbage(), {"score": 1})    # one after another; the last one stays
        api.reply(lambda request: {"score": len(request.json()["text"])})

Faults are real ones: bytes that stop, connections that are reset, sockets that stay silent. What a mocked
client would never show (a retry that reuses a dead connection, a body cut in the middle) happens here. Every
answer carries the header `X-RFT-Fake: 1`, so that nobody takes it for the service itself.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

_LONG_S = 3600.0


@dataclass(frozen=True)
class Request:
    """A request as it arrived.

    >>> Request("POST", "/score", {}, b'{"text": "hi"}').json()
    {'text': 'hi'}
    """

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises ValueError when it is something else."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One answer of the fake.

    >>> Reply({"score": 1.0}).data
    b'{"score": 1.0}'
    """

    body: Any = None
    """Bytes as they are, anything else as JSON; None for no body."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Seconds of silence first."""
    end: Literal["whole", "cut", "reset", "hang"] = "whole"
    """After the body; after half of it; a reset instead of an answer; or no answer at all."""

    @property
    def data(self) -> bytes:
        """The body's bytes."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Answer = Reply | Mapping[str, Any] | Callable[[Request], Any]
"""A reply; a JSON object, sent with status 200; or a function of the request that returns one of them."""


def rate_limited(retry_after_s: float | None = 1) -> Reply:
    """429, with `Retry-After` in seconds unless None."""
    headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
    return Reply({"error": "too many requests"}, 429, headers)


def server_error(status: int = 500) -> Reply:
    """A 5xx."""
    return Reply({"error": "the fake was told to fail"}, status)


def slow(seconds: float, body: Any = None) -> Reply:
    """A right answer that comes late."""
    return Reply({"score": 1.0} if body is None else body, delay_s=seconds)


def garbage() -> Reply:
    """Status 200 with a web page where JSON was promised."""
    return Reply(b"<!doctype html><title>It works!</title>\xff\xfe", headers={"Content-Type": "text/html"})


def truncated_json() -> Reply:
    """Status 200, delivered whole, whose JSON text stops in the middle."""
    return Reply(b'{"score": 0.')


def cut() -> Reply:
    """A connection closed in the middle of the body."""
    return Reply({"score": 1.0, "reason": "you will not read this to the end"}, end="cut")


def reset() -> Reply:
    """A connection reset before any answer."""
    return Reply(end="reset")


def hang() -> Reply:
    """Takes the request and never answers, until the fake closes."""
    return Reply(end="hang")


def redirect(to: str = "http://127.0.0.1:1/elsewhere") -> Reply:
    """302 to another place, which nobody should follow with a secret in the headers."""
    return Reply(None, 302, {"Location": to})


FAULTS: Mapping[str, Reply] = {
    "429": rate_limited(0),
    "500": server_error(),
    "503": server_error(503),
    "garbage": garbage(),
    "truncated_json": truncated_json(),
    "cut": cut(),
    "reset": reset(),
    "hang": hang(),
    "redirect": redirect(),
}
"""By name, for `pytest.mark.parametrize("fault", FAULTS)`. No number may ever come out of one."""


def chat(answer: Callable[[Sequence[Mapping[str, Any]]], str] | str, model: str = "fake") -> Answer:
    """Makes the fake an OpenAI-compatible API with one model.

    Args:
        answer: what the model says, or a function of the request's messages.
        model: its name in the list of models.
    """

    def reply(request: Request) -> Mapping[str, Any]:
        if request.method == "GET":
            return {"object": "list", "data": [{"id": model, "object": "model"}]}
        asked = request.json()
        messages = asked.get("messages") or [{"role": "user", "content": asked.get("prompt", "")}]
        said = answer if isinstance(answer, str) else answer(messages)
        choice = {"index": 0, "finish_reason": "stop"}
        choice |= (
            {"message": {"role": "assistant", "content": said}} if "messages" in asked else {"text": said}
        )
        words = len(said.split())
        usage = {"prompt_tokens": 1, "completion_tokens": words, "total_tokens": 1 + words}
        return {
            "id": "fake-1",
            "object": "chat.completion",
            "model": model,
            "choices": [choice],
            "usage": usage,
        }

    return reply


class FakeAPI:
    """The server. Listens on a free port of 127.0.0.1 from construction until `close`.

    >>> import httpx
    >>> with FakeAPI() as api:
    ...     answer = httpx.post(f"{api.url}/score", json={"text": "hi"})
    ...     answer.json(), answer.headers["X-RFT-Fake"], api.requests[0].path
    ({'score': 1.0}, '1', '/score')
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """Everything that was asked, in the order of arrival."""
        self.most_at_once = 0
        """The largest number of requests that were open together."""
        self._open = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._answers: Iterator[Answer] = iter(())
        self.reply({"score": 1.0})
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        """Base address, without a slash at the end."""
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="rft-fake-api", daemon=True
        ).start()

    def reply(self, *answers: Answer) -> None:
        """Says how the next requests are answered, one after another; the last answer stays."""
        if not answers:
            raise TypeError("reply needs at least one answer")
        with self._lock:
            self._answers = _staying(answers)

    def close(self) -> None:
        """Stops listening and lets go of what hangs."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FakeAPI:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            answer = next(self._answers)
        made: Any = answer
        while not isinstance(made, Reply):
            made = made(request) if callable(made) else Reply(made)
        return made

    def _done(self) -> None:
        with self._lock:
            self._open -= 1

    def _wait(self, seconds: float) -> None:
        self._closing.wait(seconds)


def _staying(answers: Sequence[Answer]) -> Iterator[Answer]:
    yield from answers
    while True:
        yield answers[-1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a hanging answer is let go, not waited for
    request_queue_size = 256

    def __init__(self, api: FakeAPI) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what a fake is for; nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one piece
    disable_nagle_algorithm = True

    def do_any(self) -> None:
        api = self.server.api
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            reply = api._take(Request(self.command, self.path, headers, body))
            api._wait(_LONG_S if reply.end == "hang" else reply.delay_s)
            self._send(reply)
        finally:
            api._done()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_any

    def _send(self, reply: Reply) -> None:
        if reply.end in ("hang", "reset"):
            # With nothing to linger for, closing sends a reset instead of a farewell.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        data = reply.data
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("X-RFT-Fake", "1")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if reply.end == "cut" else data)
        self.close_connection = self.close_connection or reply.end == "cut"

    def version_string(self) -> str:
        return "rft-fake-api"

    def log_message(self, format: str, *args: Any) -> None:
        pass

"""Which weights made this answer: a header and a body field on what the OpenAI app sends.

    X-RFT-Weight-Version: 12
    {"id": "chatcmpl-...", ..., "rft": {"weight_version": 12, "weight_versions": [[11, 0, 40], [12, 40, 55]]}}

`weight_version` is the newest version that sampled any of the answer's tokens, `weight_versions` the spans
(version, start, end) over the first choice's tokens; with several choices `choices` lists the spans of each.
Beam search, which samples token by token, is told `weight_version` alone.
A stream's header holds the version at its start; the chunks that follow its last token hold the field.

The engine reports spans per request, the app builds JSON without them. The two meet in a context variable:
the middleware opens an `Answer` before the app runs, and the engine client, called somewhere below, fills it
in. The field is spliced into the bytes that pass: nothing is parsed, delayed or held back.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-RFT-Weight-Version"
_WITH_BODY = ("/v1/chat/completions", "/v1/completions")

Span = tuple[int, int, int]


class _Versioned(Protocol):
    @property
    def version(self) -> int: ...


@dataclass
class Answer:
    """What the requests of one HTTP answer reported: one request for each prompt of a completion call."""

    spans: dict[tuple[int, int], list[Span]] = field(default_factory=dict)
    """By (prompt, choice), in the order of the answer's choices."""
    started: int = 0
    finished: int = 0
    searched: bool = False
    """Beam search asks anew for every token, so that no request's spans are those of a choice."""

    @property
    def complete(self) -> bool:
        """Whether the last token has been sampled."""
        return self.started == self.finished and bool(self.spans)

    @property
    def version(self) -> int:
        """The newest version that sampled any token."""
        return max((span[0] for spans in self.spans.values() for span in spans), default=0)

    def body(self) -> dict[str, Any]:
        """The `rft` field.

        >>> Answer({(0, 0): [(3, 0, 5), (4, 5, 9)]}, 1, 1).body()
        {'weight_version': 4, 'weight_versions': [(3, 0, 5), (4, 5, 9)]}
        """
        if self.searched:
            return {"weight_version": self.version}
        first, *others = choices = [self.spans[key] for key in sorted(self.spans)]
        fields = {"weight_version": self.version, "weight_versions": first}
        return {**fields, "choices": choices} if others else fields


_answer: ContextVar[Answer | None] = ContextVar("rft_answer", default=None)


async def watch(outputs: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """Passes one request's `RequestOutput`s on and notes their version spans in the answer being made."""
    answer = _answer.get() or Answer()
    answer.searched |= answer.finished > 0  # prompts of one call all start before the first is done
    prompt = answer.started
    answer.started += 1
    async with aclosing(outputs):  # type: ignore[type-var]  # vLLM's outputs come from an async generator
        async for output in outputs:
            for choice in output.outputs:
                if choice.weight_versions is not None:
                    answer.spans[prompt, choice.index] = [
                        (int(span.version), span.start, span.end) for span in choice.weight_versions
                    ]
            answer.finished += output.finished
            yield output


class WeightVersions:
    """ASGI middleware: the header on every /v1/ answer, the body field on completions."""

    def __init__(self, app: ASGIApp, engine: _Versioned) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on; see the top of this file for what is added."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            return await self.app(scope, receive, send)
        answer = Answer()
        sender = _Sender(send, answer, self.engine, with_body=scope["path"] in _WITH_BODY)
        token = _answer.set(answer)
        try:
            await self.app(scope, receive, sender)
        finally:
            _answer.reset(token)


class _Sender:
    """One answer's `send`. A JSON answer comes in one piece, so its head waits for it: the length changes."""

    def __init__(self, send: Send, answer: Answer, engine: _Versioned, *, with_body: bool) -> None:
        self._send = send
        self._answer = answer
        self._engine = engine
        self._with_body = with_body
        self._head: Message | None = None
        self._stream = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            content_type = MutableHeaders(scope=message).get("content-type", "")
            self._stream = content_type.startswith("text/event-stream")
            self._head = message
            if self._stream:
                await self._send_head(self._engine.version)
        elif message["type"] == "http.response.body":
            await self._send_body(message)
        else:
            await self._send(message)

    async def _send_body(self, message: Message) -> None:
        body = message.get("body", b"")
        if self._with_body and self._answer.complete:
            addition = json.dumps(self._answer.body(), separators=(",", ":")).encode()
            if self._stream:
                events = [_splice(event, addition, after=b"data: {") for event in body.split(b"\n\n")]
                body = b"\n\n".join(events)
            elif self._head is not None and not message.get("more_body"):
                body = _splice(body, addition, after=b"{")
                MutableHeaders(scope=self._head)["content-length"] = str(len(body))
        if self._head is not None:
            await self._send_head(self._answer.version if self._answer.spans else self._engine.version)
        await self._send({**message, "body": body})

    async def _send_head(self, version: int) -> None:
        head, self._head = self._head, None
        assert head is not None
        MutableHeaders(scope=head)[HEADER] = str(version)
        await self._send(head)


def _splice(text: bytes, addition: bytes, *, after: bytes) -> bytes:
    """Adds `"rft": addition` to the JSON object that `text` ends with; other text stays as it is.

    >>> _splice(b'data: {"id":1}', b'{"weight_version":2}', after=b"data: {")
    b'data: {"id":1,"rft":{"weight_version":2}}'
    """
    if not (text.startswith(after) and text.endswith(b"}")):
        return text
    return text[:-1] + b',"rft":' + addition + b"}"

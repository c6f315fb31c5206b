"""One service over HTTP: a request goes out with its secrets, a whole answer comes back, or our error.

What this client will not do is the point of it: follow a redirect or send a request to a host that was not
named (both would hand out credentials), read an answer without end, or show a secret to whoever reads the
response. It never retries; whoever runs the evaluator does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Any

import httpx

from rft.errors import EvaluatorError, UserError
from rft.http.faults import broken, excerpt, fault_of
from rft.secrets import Secret, hide

MAX_RESPONSE_BYTES = 1 << 20

_ON_THE_WAY = ("content-encoding", "content-length", "transfer-encoding")
"""Headers about the body as it travelled, which it no longer is."""


class Client:
    """Belongs to one event loop. Raises UserError for a secret that is missing or does not fit a header."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, Secret] | None = None,
        allow_hosts: Collection[str] = (),
        timeout_s: float = 30.0,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        """
        Args:
            url: the service's address; its host may be asked, and no other.
            headers: secrets to send with every request.
            allow_hosts: further hosts that may be asked.
            timeout_s: for one answer, from connecting to its last byte.
            max_response_bytes: of the decoded body; a longer answer is refused.
        """
        self._hosts = {httpx.URL(url).host, *allow_hosts}
        headers = headers or {}
        self._credentials = [f"{name} ({secret})" for name, secret in headers.items()]
        self._revealed = {name: _header_value(name, secret) for name, secret in headers.items()}
        self._timeout_s = timeout_s
        self._max_bytes = max_response_bytes
        self._tls = httpx.create_ssl_context()
        self._idle: list[httpx.AsyncClient] = []
        for name in ("httpcore.http11", "httpx"):  # they log the service's headers, which may echo ours
            logging.getLogger(name).addFilter(_hide_secrets)

    async def send(self, request: httpx.Request, *, accept: Collection[int] = ()) -> httpx.Response:
        """The whole answer. Its `request` is the one given, which has no secrets in it.

        Args:
            accept: status codes to return beside 2xx.

        Raises EvaluatorError for everything else; `rft.http.faults` has the table.
        """
        host = request.url.host
        if host not in self._hosts:
            allowed = ", ".join(sorted(self._hosts))
            raise EvaluatorError(
                "bug", f"a request to {host!r} is not allowed, only to {allowed} (allow_hosts)"
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._exchange(request)
        except TimeoutError as error:
            told = f"no whole answer from {host} within {self._timeout_s:g} s"
            raise EvaluatorError("timeout", told, retryable=True) from error
        except httpx.RequestError as error:
            raise broken(error, host) from error
        fault = fault_of(response, self._credentials)
        if fault is not None and response.status_code not in accept:
            raise fault
        return response

    async def close(self) -> None:
        """Closes the connections."""
        while self._idle:
            await self._idle.pop().aclose()

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        headers = httpx.Headers(request.headers)
        headers.update(self._revealed)
        signed = httpx.Request(request.method, request.url, headers=headers, stream=request.stream)
        http = self._idle.pop() if self._idle else self._connection()
        try:
            answer = await http.send(signed, stream=True)
            body = await self._body(answer)
            await answer.aclose()
        except BaseException:
            await http.aclose()
            raise
        self._idle.append(http)
        told = [(name, value) for name, value in answer.headers.multi_items() if name not in _ON_THE_WAY]
        return httpx.Response(answer.status_code, headers=told, content=body, request=request)

    def _connection(self) -> httpx.AsyncClient:
        """An httpx client for one request at a time.

        httpx can pool connections by itself, but at each request its pool compares every idle connection with
        all others: with 64 at once that took two thirds of the time that scoring took.
        """
        return httpx.AsyncClient(
            follow_redirects=False,
            timeout=None,  # one clock over the whole answer, in `send`
            verify=self._tls,
            limits=httpx.Limits(max_connections=1),
        )

    async def _body(self, answer: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > self._max_bytes:
                if not answer.is_success:  # enough to say what was wrong
                    break
                raise EvaluatorError(
                    "bad_response",
                    f"the answer from {answer.url.host} is longer than {self._max_bytes:,} bytes "
                    "(max_response_bytes)",
                )
        return bytes(body)


def read_json(response: httpx.Response) -> Any:
    """The body as JSON. Raises EvaluatorError (`bad_response`, retryable) when it is none or is cut."""
    try:
        return response.json()
    except (ValueError, RecursionError) as error:  # no JSON, no text, or brackets without end
        told = f"the answer from {response.url.host} is not JSON: {excerpt(response)}"
        raise EvaluatorError("bad_response", told, retryable=True) from error


def _header_value(name: str, secret: Secret) -> str:
    value = secret.reveal()
    if not (value.isascii() and value.isprintable()):
        raise UserError(
            f"{secret} holds characters that the header {name} cannot carry; is it the right one?"
        )
    return value


def _hide_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = hide(record.getMessage()), ()
    return True

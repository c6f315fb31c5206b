"""A judge behind an OpenAI-compatible chat API, whoever runs it.

Where the server holds answers to a JSON schema it is asked to. One that refuses a request with a schema and
takes it without is not asked again; the verdict's form stands in the judge's orders as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from rft.chat import Reply
from rft.errors import EvaluatorError
from rft.http.client import Client, read_json
from rft.http.faults import excerpt, fault_of
from rft.secrets import Secret
from rft.types import Message

_REFUSED = (400, 422)
_NO_MODEL = 404


class EndpointChat:
    """A `rft.chat.Chat`. Belongs to one event loop."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: Secret | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float,
    ) -> None:
        """Args:
        url: the API's base, up to and with `/v1`.
        body: further keys of a request; None takes one out.

        Raises UserError for a key that is named and not there.
        """
        self._model = model
        self._address = url.rstrip("/") + "/chat/completions"
        self._body = dict(body or {})
        self._holds_schemas = True
        headers = {} if api_key is None else {"Authorization": _bearer(api_key)}
        self._client = Client(self._address, headers=headers, timeout_s=timeout_s)

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """See `rft.chat.Chat.chat`."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [message.to_dict() for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if schema is None or not self._holds_schemas:
            return _reply(self._checked(await self._post(body)))
        held = {"name": "verdict", "strict": True, "schema": dict(schema)}
        response = await self._post({**body, "response_format": {"type": "json_schema", "json_schema": held}})
        if response.status_code not in _REFUSED:
            return _reply(self._checked(response))
        without = await self._post(body)
        if without.is_success:  # so the schema was what it did not take
            self._holds_schemas = False
        return _reply(self._checked(without))

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        sent = {key: value for key, value in {**body, **self._body}.items() if value is not None}
        request = httpx.Request("POST", self._address, json=sent)
        return await self._client.send(request, accept=(*_REFUSED, _NO_MODEL))

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.status_code == _NO_MODEL:
            told = f"HTTP 404 from {self._address} for the model {self._model!r}: {excerpt(response)}"
            raise EvaluatorError("bug", f"{told}; check url and model")
        fault = fault_of(response)
        if fault is not None:
            raise fault
        return response


def _bearer(key: Secret) -> Secret:
    return key if " " in str(key).partition(":")[0] else Secret(f"Bearer {key}")


def _reply(response: httpx.Response) -> Reply:
    answer = read_json(response)
    try:
        choice = answer["choices"][0]
        text = choice["message"].get("content") or ""  # null where the model refuses: an empty verdict
        usage = answer.get("usage") or {}
        return Reply(
            str(text),
            tokens_in=int(usage.get("prompt_tokens") or 0),
            tokens_out=int(usage.get("completion_tokens") or 0),
            cut=choice.get("finish_reason") == "length",
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        told = f"the answer from {response.url.host} is no chat completion: {excerpt(response)}"
        raise EvaluatorError("bad_response", told, retryable=True) from error

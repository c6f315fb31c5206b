"""A model behind somebody's OpenAI-compatible API plays the same tasks, in messages instead of tokens.

    http://127.0.0.1:8000/v1#my-model       the part behind # names the model; unnamed, the only one served

What the API hides stays unknown: rollouts carry no turns, and their length is what the API reports. An
answer that does not come is a failure of its own kind, never an empty or zero-scored answer; what could
pass (429, 5xx, a broken connection) is tried again, no sooner than `Retry-After` asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import httpx

from rft.environment import Environment
from rft.errors import EndpointError, ServeError
from rft.recipe.schema import RolloutSpec
from rft.retry_after import retry_after_s
from rft.rollout.play import AnyPlayer, MyTurn, Voice, at_once
from rft.types import FailureKind, Message, Rollout, Task, Turn

if TYPE_CHECKING:
    from tenacity import AsyncRetrying, RetryCallState

NUM_TOKENS = "endpoint/tokens"
"""Rollout metric: sampled tokens, as the API counts them."""

_ATTEMPTS = 6
_LONGEST_PAUSE_S = 60.0
_SEED_BITS = 31  # some servers take no longer one
_LONGEST_DETAIL = 200


class _PassingError(EndpointError):
    """An EndpointError worth another try."""

    def __init__(self, kind: FailureKind, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(kind, detail)
        self.retry_after_s = retry_after_s


class Endpoint:
    """One model of one server. Belongs to one event loop."""

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        pause_s: float = 1.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """
        Args:
            address: the API's base URL, then # and the model's name.
            timeout_s: for one request.
            pause_s: the first retry waits up to this long, each further one up to twice as long.
            transport: replaces the network, for tests.
        """
        self.url, _, self.model = address.partition("#")
        self._pause_s = pause_s
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=self.url.rstrip("/") + "/", headers=headers, timeout=timeout_s, transport=transport
        )

    async def connect(self) -> None:
        """Looks whether the server is there and has the model. Raises ServeError.

        Servers without a list of models are believed, if a model is named.
        """
        try:
            response = await self._http.get("models")
        except httpx.HTTPError as error:
            raise ServeError(f"{self.url} does not answer ({_named(error)}); is it running?") from error
        self._refuse_key(response)
        try:
            names = [str(model["id"]) for model in response.raise_for_status().json()["data"]]
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
            names = [self.model] if self.model else []
        if not self.model and len(names) == 1:
            self.model = names[0]
        if self.model not in names:
            told = (
                f"has no model {self.model!r}"
                if self.model
                else "serves more than one model or does not tell"
            )
            listed = f": {', '.join(names[:8])}" if names else ""
            raise ServeError(f"{self.url} {told}; name one as {self.url}#MODEL{listed}")

    async def ask(self, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
        """The first choice of an answer and the number of sampled tokens, where told; retried if it may help.

        Raises EndpointError when no answer comes, ServeError for a wrong key or model.
        """
        answer: dict[str, Any] = await self._retrying()(self._post, path, {"model": self.model, **body})
        try:
            return answer["choices"][0], (answer.get("usage") or {}).get("completion_tokens")
        except (KeyError, IndexError, TypeError) as error:
            raise EndpointError("bad_response", "the answer holds no choices") from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            response = await self._http.post(path, json=body)
        except httpx.TimeoutException as error:
            raise EndpointError("timeout", _named(error)) from error
        except httpx.TransportError as error:
            raise _PassingError("transport", _named(error)) from error
        self._refuse_key(response)
        status = response.status_code
        told = f"HTTP {status}: {' '.join(response.text.split())[:_LONGEST_DETAIL]}"
        if status == 404:
            raise ServeError(f"{self.url} refuses the model {self.model!r}: {told}")
        if status == 429 or status >= 500:
            kind: FailureKind = "rate_limited" if status == 429 else "server"
            raise _PassingError(kind, told, retry_after_s(response.headers))
        if status >= 400:
            raise EndpointError("bad_response", told)
        try:
            answer = response.json()
        except ValueError as error:
            raise EndpointError("bad_response", "the answer is not JSON") from error
        return answer if isinstance(answer, dict) else {}

    def _refuse_key(self, response: httpx.Response) -> None:
        if response.status_code in (401, 403):
            raise ServeError(
                f"{self.url} refuses the key (HTTP {response.status_code}); "
                "name the variable that holds it: --api-key-env NAME"
            )

    def _retrying(self) -> AsyncRetrying:
        from tenacity import (
            AsyncRetrying,
            retry_if_exception_type,
            stop_after_attempt,
            wait_random_exponential,
        )

        backoff = wait_random_exponential(multiplier=self._pause_s, max=_LONGEST_PAUSE_S)

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after_s if isinstance(error, _PassingError) else None
            return backoff(state) if asked is None else min(asked, _LONGEST_PAUSE_S)

        return AsyncRetrying(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait,
            reraise=True,
        )


class EndpointPlayer(AnyPlayer):
    """Plays tasks through an endpoint, so many conversations at once."""

    def __init__(
        self,
        endpoint: Endpoint,
        make_environment: Callable[[], Environment],
        spec: RolloutSpec,
        *,
        concurrency: int = 16,
    ) -> None:
        self.endpoint = endpoint
        self.make_environment = make_environment
        self.spec = spec
        self._slots = asyncio.Semaphore(concurrency)

    def voice(self) -> Voice:
        """See `AnyPlayer.voice`."""
        return _ChatVoice(self.endpoint, self.spec)

    def held(self) -> AbstractContextManager[None]:
        """Nothing to hold: the server batches as it likes."""
        return nullcontext()

    async def play(
        self,
        task: Task,
        *,
        group_id: str,
        index: int,
        seed: int,
        temperature: float,
        my_turn: MyTurn = at_once,
    ) -> Rollout:
        """See `AnyPlayer.play`; time spent waiting for a slot is not the rollout's."""
        async with self._slots:
            return await super().play(
                task, group_id=group_id, index=index, seed=seed, temperature=temperature, my_turn=my_turn
            )


class _ChatVoice:
    """Speaks in messages. A plain-text prompt goes to the completions API, which knows no second turn."""

    def __init__(self, endpoint: Endpoint, spec: RolloutSpec) -> None:
        self._endpoint, self._spec = endpoint, spec
        self.turns: list[Turn] = []
        self.metrics: dict[str, float] = {}

    def open(self, messages: str | Sequence[Message], tools: Sequence[Mapping[str, object]]) -> None:
        self._plain = messages if isinstance(messages, str) else None
        self._messages = [] if isinstance(messages, str) else [message.to_dict() for message in messages]
        self._tools = [dict(tool) for tool in tools]

    async def say(self, seed: int, temperature: float) -> tuple[Message, str] | None:
        body = self._sampling(seed, temperature)
        if self._plain is not None:
            choice, tokens = await self._endpoint.ask("completions", {"prompt": self._plain, **body})
            said = Message("assistant", choice.get("text") or "")
        else:
            tools = {"tools": self._tools} if self._tools else {}
            choice, tokens = await self._endpoint.ask(
                "chat/completions", {"messages": self._messages, **tools, **body}
            )
            said = _message(choice)
        if choice.get("finish_reason") == "content_filter":
            raise EndpointError("bad_response", "the answer was withheld by a content filter")
        if tokens is not None:
            self.metrics[NUM_TOKENS] = self.metrics.get(NUM_TOKENS, 0.0) + tokens
        return said, "length" if choice.get("finish_reason") == "length" else "stop"

    def hear(self, said: Message, replies: Sequence[Message]) -> None:
        if self._plain is not None:
            raise ServeError("an endpoint cannot go on with plain text after one answer; use chat prompts")
        self._messages += [message.to_dict() for message in (said, *replies)]

    def _sampling(self, seed: int, temperature: float) -> dict[str, Any]:
        spec = self._spec
        body: dict[str, Any] = {"max_tokens": spec.max_new_tokens, "temperature": temperature}
        if temperature > 0:
            body["seed"] = seed % (1 << _SEED_BITS)
        # What OpenAI's API does not know is sent only when it is asked for.
        optional = {"top_p": spec.top_p != 1.0, "top_k": spec.top_k, "min_p": spec.min_p, "stop": spec.stop}
        body |= {name: getattr(spec, name) for name, wanted in optional.items() if wanted}
        return body | spec.sampling


def _message(choice: Mapping[str, Any]) -> Message:
    try:
        return Message.from_dict({**choice["message"], "role": "assistant"})
    except (KeyError, TypeError) as error:
        raise EndpointError("bad_response", "the answer holds no message") from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST_DETAIL].removesuffix(": ")

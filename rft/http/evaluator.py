"""An application's own API as an evaluator. Two methods say what is sent and how the answer reads:

    class Quality(HTTPEvaluator):
        def build_request(self, rollout):
            return {"answer": rollout.text, "order": rollout.task.field("order_id")}

        def parse_response(self, response, rollout):
            return Score(response.json()["quality"], reason=response.json()["why"])

    Quality(url="https://shop.example/score", headers={"Authorization": "Bearer env:SHOP_TOKEN"})

Where a template of the body and the place of the number say it all, a recipe is enough:

    evaluator:
      use: http
      with:
        url: https://shop.example/score
        headers: {Authorization: "Bearer env:SHOP_TOKEN"}
        body: {answer: "{text}", order: "{order_id}"}
        score: result.quality

With neither, both sides speak `rft.http.wire`. Retries, pace and time limits are the runner's, as for every
evaluator; for the service there is an `Idempotency-Key` that stays the same over retries, so that a request
that was billed before its answer was lost need not be billed again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, field_validator

from rft.errors import EvaluatorError, UserError
from rft.evaluator import Evaluator, Limits, Verdict
from rft.http import wire
from rft.http.client import MAX_RESPONSE_BYTES, Client, read_json
from rft.http.faults import excerpt
from rft.http.template import at, fields_in, fill
from rft.secrets import Secret, hide, is_telling, redact
from rft.types import Rollout, Score

RUN_VARIABLE = "RFT_RUN"
"""The environment variable that names the run, for the header `X-RFT-Run`."""

_KEY = "Idempotency-Key"
_AUTHORS_READING = (KeyError, IndexError, TypeError, ValueError)
"""What Python raises where an answer is not shaped as `parse_response` expects."""
_NOT_READABLE = (json.JSONDecodeError, UnicodeDecodeError)
"""Those of an answer that was cut or garbled on its way, which may come whole the next time."""


def _named_credentials(headers: Any) -> Any:
    """Header values with their secrets told apart. Raises UserError for a credential that is written out."""
    if not isinstance(headers, Mapping):
        return headers
    made: dict[Any, Any] = {}
    for name, value in headers.items():
        named = isinstance(value, str) and Secret.is_written(value)
        if is_telling(str(name)) and not (named or isinstance(value, Secret)):
            raise UserError(
                f"the header {name} holds a credential, which is named and not written out: "
                f"{name}: env:NAME, or {name}: Bearer env:NAME"
            )
        made[name] = Secret(value) if named else value
    return made


Headers = Annotated[dict[str, str | Secret], BeforeValidator(_named_credentials)]


class HTTPEvaluator(Evaluator):
    """Scores rollouts by asking a service; `rft.http.faults` says what a fault means.

    `evaluate` is ours; override `build_request` and `parse_response`.
    """

    class Config(BaseModel):
        """Subclasses may add keys, and give these other defaults."""

        model_config = ConfigDict(extra="forbid", validate_default=True)
        url: str
        headers: Headers = {}
        """Sent with every request; a secret is written env:NAME or file:/PATH, after a scheme if need be."""
        body: dict[str, Any] | None = None
        """What is sent, with {text}, {prompt}, {messages}, {reference}, {id} and any task field filled in."""
        score: str | None = None
        """Where the number stands in the answer: keys and list positions, joined by dots."""
        reason: str | None = None
        """Where the reason stands, if anywhere."""
        range: tuple[float, float] = (0.0, 1.0)
        requires: tuple[str, ...] = ()
        """Task fields the service reads, beside those named in `body`."""
        model_fault_statuses: tuple[int, ...] = ()
        """Statuses by which the service says that the answer it was to judge is no good, such as 422: the
        lowest score, with the body as reason."""
        allow_hosts: tuple[str, ...] = ()
        """Hosts that may be asked beside that of `url`."""
        idempotent: bool = True
        """Whether asking twice does no harm; if not, nothing is tried again."""
        max_response_bytes: PositiveInt = MAX_RESPONSE_BYTES
        # How hard it is driven changes no score, so it stays out of the dump that makes the fingerprint.
        limits: Annotated[Limits, Field(exclude=True)] = Limits()

        @field_validator("url")
        @classmethod
        def _plain_url(cls, url: str) -> str:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must be a whole address, like https://api.example/score")
            if (
                parts.password
                or parts.username
                or any(is_telling(name) for name, _ in parse_qsl(parts.query))
            ):
                raise UserError("url holds a credential; send it in a header instead: {NAME: env:VARIABLE}")
            return url

        @field_validator("model_fault_statuses")
        @classmethod
        def _about_the_answer(cls, statuses: tuple[int, ...]) -> tuple[int, ...]:
            if wrong := sorted(s for s in statuses if not 400 <= s < 500 or s in (401, 403, 405, 408, 429)):
                raise ValueError(f"{wrong} cannot be the model's fault; name statuses such as 422")
            return statuses

    def __init__(self, **config: Any) -> None:
        """Raises pydantic.ValidationError for wrong options, UserError for a written-out credential."""
        super().__init__(**config)
        given = self.config.model_fields_set
        self.range = self.config.range if "range" in given else self.range
        self.limits = self.config.limits if "limits" in given else self.limits
        if not self.config.idempotent:
            self.limits = replace(self.limits, attempts=1)
        self.origin = httpx.URL(self.config.url).netloc.decode()
        self.requires = self.requires | set(self.config.requires) | fields_in(self.config.body)
        self._client: Client | None = None

    def build_request(self, rollout: Rollout) -> httpx.Request | Mapping[str, Any]:
        """What to ask: the JSON body of a POST to `url`, or a whole request. Secrets are added later."""
        if self.config.body is not None:
            filled: dict[str, Any] = fill(self.config.body, rollout)
            return filled
        return wire.request_of(rollout)

    def parse_response(self, response: httpx.Response, rollout: Rollout) -> Verdict:
        """The verdict in an answer with status 2xx.

        KeyError, IndexError, TypeError and ValueError mean that the answer is not as promised, and become a
        failure of kind `bad_response`; anything else is a bug.
        """
        answer = read_json(response)
        if self.config.score is None:
            return wire.score_of(answer)
        value = at(answer, self.config.score)
        if isinstance(value, str) or value is None:
            raise TypeError(f"{self.config.score} is {json.dumps(value)}, not a number")
        reason = None if self.config.reason is None else str(at(answer, self.config.reason))
        return Score(float(value), reason=reason)

    async def setup(self) -> None:
        """Reads the secrets. Raises UserError when one is missing."""
        if self.execution == "thread":
            told = "keeps its connections on one event loop, and each thread would bring its own"
            raise UserError(f'{self.name} {told}; set execution to "async" or "process"')
        self._client = Client(
            self.config.url,
            headers=self._credentials,
            allow_hosts=self.config.allow_hosts,
            timeout_s=self.limits.timeout_s,
            max_response_bytes=self.config.max_response_bytes,
        )

    async def evaluate(self, rollout: Rollout) -> Verdict:
        """One request and its verdict. Raises EvaluatorError when there is none."""
        if self._client is None:
            raise RuntimeError("setup() comes first; rft.score and the runner call it")
        faults = self.config.model_fault_statuses
        response = await self._client.send(self._request(rollout), accept=faults)
        if response.status_code in faults:
            return Score(self.range[0], reason=f"HTTP {response.status_code}: {excerpt(response)}")
        try:
            verdict = self.parse_response(response, rollout)
        except _AUTHORS_READING as error:
            told = f"{type(error).__name__}: {error}; the answer begins {excerpt(response)}"
            raise EvaluatorError("bad_response", told, retryable=isinstance(error, _NOT_READABLE)) from error
        return _hidden(verdict) if isinstance(verdict, Score) else verdict

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def dry_run(self, rollout: Rollout) -> str:
        """The request for one rollout as text; secrets by name, so that they need not be set."""
        request = self._request(rollout)
        named = {name.lower(): str(secret) for name, secret in self._credentials.items()}
        sent = {
            name: "***" if is_telling(name) and name != _KEY.lower() else value
            for name, value in request.headers.items()
        }
        head = [f"{n}: {v}" for n, v in {**sent, **named}.items()]
        head.insert(0, f"{request.method} {request.url}")
        return hide("\n".join([*head, "", request.content.decode(errors="replace")]))

    @property
    def _credentials(self) -> dict[str, Secret]:
        return {name: value for name, value in self.config.headers.items() if isinstance(value, Secret)}

    def _request(self, rollout: Rollout) -> httpx.Request:
        built = self.build_request(rollout)
        request = (
            built if isinstance(built, httpx.Request) else httpx.Request("POST", self.config.url, json=built)
        )
        headers = {name: value for name, value in self.config.headers.items() if isinstance(value, str)}
        headers |= {"Accept": "application/json", "User-Agent": "rft", _KEY: self._key(rollout)}
        if run := os.environ.get(RUN_VARIABLE):
            headers["X-RFT-Run"] = run
        for name, value in headers.items():
            request.headers.setdefault(name, value)
        return request

    def _key(self, rollout: Rollout) -> str:
        """The same for every attempt at one rollout by one evaluator, and for nothing else.

        The rollout's id alone would not do: it repeats from step to step and from run to run.
        """
        told = [self._fingerprint, rollout.id, rollout.task.id, [m.to_dict() for m in rollout.messages]]
        return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:32]

    @functools.cached_property
    def _fingerprint(self) -> str:
        return self.fingerprint()

    def __getstate__(self) -> dict[str, Any]:
        """Without the open connections and the secrets they carry: a copy is set up anew."""
        return {**vars(self), "_client": None}


def _hidden(score: Score) -> Score:
    """The score with its texts free of secrets: a service may echo what it was sent."""
    failure = score.failure
    return score.stamped(
        reason=None if score.reason is None else hide(score.reason),
        metrics={hide(name): value for name, value in score.metrics.items()},
        parts={hide(name): _hidden(part) for name, part in score.parts.items()},
        failure=None if failure is None else replace(failure, detail=redact(failure.detail)),
    )

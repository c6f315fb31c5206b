"""What the judges share: which model is asked, how a verdict is read, and what it cost.

A verdict is one JSON object held to a JSON schema: the same schema is sent to the model's server and checked
here, since not every server holds it. A verdict that cannot be read is the instrument's failure
(`judge_parse`), tried again and then masked; it is never a low score.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from rft.chat import Chat, Reply
from rft.errors import EvaluatorError, UserError
from rft.evaluator import Evaluator, Limits
from rft.evaluators import _judge_prompt
from rft.evaluators._judge_client import EndpointChat
from rft.evaluators._judge_prompt import system_prompt
from rft.secrets import Secret
from rft.types import Cost, Message, Score

_QUOTED = 160  # characters of an unreadable verdict that are shown
_ON_ENDPOINT = Limits(concurrency=32, timeout_s=120.0, deadline_s=600.0)
_ON_ENGINE = Limits(concurrency=16, timeout_s=1800.0, deadline_s=3600.0)
"""On the shared engine a verdict waits in the queue behind rollouts, which is no fault of anybody; and only
so many at a time, so that rollouts of several turns are not pushed back by a wave of verdicts."""


class Criterion(BaseModel):
    """One thing to judge. Plain text is short for `{text: ...}`."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]  # what servers take as a property's name
_Criterion = Annotated[Criterion, BeforeValidator(lambda v: {"text": v} if isinstance(v, str) else v)]


class JudgeConfig(BaseModel):
    """The `with:` block that all judges have."""

    model_config = ConfigDict(extra="forbid")
    url: str | None = None
    """An OpenAI-compatible API, up to and with `/v1`."""
    model: str | None = None
    api_key: Secret | None = None
    engine: Literal["base"] | None = None
    """Instead of `url` and `model`: the weights an adapter is trained on, on the training engine itself."""
    criteria: dict[_Name, _Criterion] = Field(
        default={"quality": Criterion(text="Does what was asked, correctly and completely, and no more.")},
        min_length=1,
    )
    instructions: str = ""
    """Anything else the judge should know, about the product say."""
    reference: Literal["optional", "required", "hidden"] = "optional"
    """Whether the judge is shown the task's reference."""
    temperature: float | None = Field(None, ge=0)
    """Unset leaves it to the server. 0 declares the judge deterministic, so that verdicts may be cached."""
    max_tokens: int = Field(1024, gt=0)
    """For one verdict."""
    max_chars: int = Field(16_000, gt=1)
    """Of each text shown to the judge; a longer one loses its middle."""
    body: dict[str, Any] = {}
    """Further keys of the request to `url`; null leaves one out that would be sent."""
    # What changes no score stays out of the dump that makes the fingerprint.
    usd_per_million_in: float = Field(0.0, ge=0, allow_inf_nan=False, exclude=True)
    usd_per_million_out: float = Field(0.0, ge=0, allow_inf_nan=False, exclude=True)
    limits: Limits | None = Field(None, exclude=True)
    """How hard the judge may be driven; unset, 32 verdicts at a time (16 on the engine)."""

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://unset")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a whole address, like https://api.example/v1")
        if parts.username or parts.password or parts.query:
            raise UserError("url holds more than an address; a key goes into api_key: env:VARIABLE")
        return url

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if self.engine is not None and (self.url or self.model or self.api_key or self.body):
            raise ValueError("engine: base is the model; leave out url, model, api_key and body")
        if self.engine is None and not (self.url and self.model):
            raise ValueError("name the judge: url and model of an OpenAI-compatible API, or engine: base")
        return self


class UnreadableVerdict(EvaluatorError):
    """A verdict that is not what was asked for, with what it cost all the same."""

    def __init__(self, detail: str, cost: Cost) -> None:
        super().__init__("judge_parse", detail, retryable=True)
        self.cost = cost

    def score(self) -> Score:
        """As a failed score, which unlike an exception carries its cost."""
        return Score.failed(self.kind, self.detail, retryable=self.retryable).stamped(cost=self.cost)


class Judging(Evaluator):
    """The part of a judge that asks. Subclasses say what, and make scores of the verdicts."""

    Config = JudgeConfig
    job: str
    """The first paragraph of what the judge is told."""
    form: str
    """One criterion's (or answer's) part of the verdict, as shown to the judge."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.deterministic = self.config.temperature == 0
        self.base_model = ""
        self.base: Chat | None = None
        if self.config.reference == "required":
            self.requires = frozenset({"reference"})
        self.limits = self.config.limits or (_ON_ENGINE if self.wants_base else _ON_ENDPOINT)
        self.origin = "engine: base" if self.wants_base else urlsplit(self.config.url).netloc
        self._chat: Chat | None = None

    @property
    def wants_base(self) -> bool:
        """Whether the embedded engine's base weights are the judge; see `rft.chat.WantsBase`."""
        return self.config.engine is not None

    async def setup(self) -> None:
        """Connects. Raises UserError when the engine is asked for where there is none."""
        if not self.wants_base:
            config = self.config
            self._chat = EndpointChat(
                config.url,
                config.model,
                api_key=config.api_key,
                body=config.body,
                timeout_s=self.limits.timeout_s,
            )
        elif self.base is None:
            raise UserError(
                f"{self.name}: engine: base judges with the weights under an adapter in training, and here "
                "is no such engine; give url and model of an OpenAI-compatible API instead"
            )
        else:
            self._chat = self.base

    async def close(self) -> None:
        """Closes the connections."""
        if isinstance(self._chat, EndpointChat):
            await self._chat.close()

    def fingerprint(self) -> str:
        """Changes with the model, the rubric and every word the judge is told."""
        code = inspect.getsource(_judge_prompt)
        told = (super().fingerprint(), self.base_model, self.orders(list(self.config.criteria)), code)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def orders(self, keys: Sequence[str]) -> str:
        """The judge's standing orders, for a verdict with these keys."""
        criteria = {name: (one.text, one.weight) for name, one in self.config.criteria.items()}
        form = "{" + ", ".join(f"{json.dumps(key)}: {self.form}" for key in keys) + "}"
        return system_prompt(self.job, criteria, self.config.instructions, form)

    async def ask(
        self, keys: Sequence[str], verdict: Mapping[str, Any], question: Message
    ) -> tuple[dict[str, Any], Cost]:
        """The verdict: an object with `keys`, each `{"reason": text, **verdict}`; and what it cost.

        Raises UnreadableVerdict, and what the model's server raises.
        """
        assert self._chat is not None, "setup() comes first"
        schema = _object({key: _object({"reason": {"type": "string"}, **verdict}) for key in keys})
        reply = await self._chat.chat(
            [Message("system", self.orders(keys)), question],
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            schema=schema,
        )
        cost = self._cost(reply)
        return read_verdict(reply, schema, cost, self.config.max_tokens), cost

    def weighed(self, parts: Mapping[str, Score]) -> float:
        """The weighted mean of the criteria's scores: sum of w_i * v_i over sum of w_i."""
        weights = {name: one.weight for name, one in self.config.criteria.items()}
        total = math.fsum(weights[name] * float(part) for name, part in parts.items())
        return min(total / math.fsum(weights.values()), 1.0)  # rounding may overstep by a last digit

    def _cost(self, reply: Reply) -> Cost:
        usd = (
            reply.tokens_in * self.config.usd_per_million_in
            + reply.tokens_out * self.config.usd_per_million_out
        ) / 1e6
        return Cost(usd=usd, calls=1, tokens_in=reply.tokens_in, tokens_out=reply.tokens_out)


def reasons(parts: Mapping[str, Score]) -> str:
    """One line of all parts' reasons."""
    return "; ".join(f"{name} {float(part):.2g}: {part.reason}" for name, part in parts.items())


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def read_verdict(reply: Reply, schema: Mapping[str, Any], cost: Cost, max_tokens: int) -> dict[str, Any]:
    """The verdict in a reply, held to its schema. Raises UnreadableVerdict."""
    # Imported only here, so that `import rft.evaluators` stays quick.
    from jsonschema import Draft202012Validator

    text = reply.text.rpartition("</think>")[2].strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.strip("`").removeprefix("json").strip()
    shown = f"got {text[:_QUOTED]!r}"
    if reply.cut:
        raise UnreadableVerdict(f"the verdict was cut at max_tokens = {max_tokens}; raise it; {shown}", cost)
    try:
        verdict = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableVerdict(f"the verdict is not one JSON object; {shown}", cost) from None
    error = next(Draft202012Validator(schema).iter_errors(verdict), None)
    if error is not None:
        raise UnreadableVerdict(f"the verdict breaks its form ({error.message[:_QUOTED]}); {shown}", cost)
    # An escaped half of a surrogate pair is JSON, and no text that could be stored.
    whole = json.dumps(verdict, ensure_ascii=False).encode("utf-8", "replace")
    return dict(json.loads(whole))

"""The language that evaluator services speak with us: versioned JSON, small enough to write by hand anywhere.

    POST <url>          {"version": "rft.evaluate/1", "rollout": {...}}    -> {"score": 0.7, "reason": "..."}
    POST <url>/batch    {"version": "rft.evaluate/1", "rollouts": [{...}]} -> {"results": [{...}]}

A service that scores answers with {"score": number}. One that cannot judge says so, and gives no number:

    {"status": "skipped", "reason": "the gold answer is unreadable"}
    {"status": "failed", "failure": {"kind": "server", "detail": "database away", "retryable": true}}

A verdict, a failed one included, comes with HTTP status 200; other statuses mean what `rft.http.faults` says.
Whoever receives a message ignores keys it does not know; a change that breaks readers gets a new version.
`evaluate-1.schema.json` beside this file is these models as a JSON schema, for other languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
)
from pydantic.json_schema import models_json_schema
from pydantic_core import to_jsonable_python

from rft.errors import EvaluatorError
from rft.types import (
    Cost,
    Failure,
    FailureKind,
    Message,
    Role,
    Rollout,
    Score,
    Status,
    StopReason,
    Task,
    Turn,
)

VERSION: Literal["rft.evaluate/1"] = "rft.evaluate/1"


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class WireMessage(_Wire):
    """A chat message in the OpenAI form."""

    role: Role
    content: str | None = ""
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class WireTask(_Wire):
    """What the model was asked, and what an evaluator may compare with."""

    id: str
    prompt: str | list[WireMessage]
    """Text that the model continued without a chat template, or messages."""
    reference: Any = None
    metadata: dict[str, Any] = {}
    """The other columns of the task's row."""


class WireTurn(_Wire):
    """One call of the model."""

    token_ids: list[int]
    """What was sampled."""
    finish_reason: str


class WireRollout(_Wire):
    """A finished conversation."""

    id: str
    group_id: str
    """Rollouts of one group answer the same prompt."""
    task: WireTask
    messages: list[WireMessage]
    """All of it, prompt included."""
    text: str
    """The model's last message."""
    stop: StopReason = "eos"
    turns: list[WireTurn] = []
    rewards: list[float | None] = []
    env: dict[str, Any] = {}
    """The environment's final state."""
    metrics: dict[str, float | None] = {}


class WireRequest(_Wire):
    """One rollout to score."""

    version: Literal["rft.evaluate/1"]
    rollout: WireRollout


class WireBatch(_Wire):
    """Several, in one request."""

    version: Literal["rft.evaluate/1"]
    rollouts: list[WireRollout]


class WireFailure(_Wire):
    """Why there is no score, although nothing is wrong with the answer that was to be judged."""

    kind: FailureKind
    detail: str
    retryable: bool = False
    retry_after_s: NonNegativeFloat | None = None


class WireCost(_Wire):
    """What the evaluation cost."""

    usd: NonNegativeFloat = 0.0
    calls: NonNegativeInt = 0
    tokens_in: NonNegativeInt = 0
    tokens_out: NonNegativeInt = 0


class WireVerdict(_Wire):
    """The answer for one rollout. `score` is a finite number exactly when `status` is "ok"."""

    version: Literal["rft.evaluate/1"] = VERSION
    status: Status = "ok"
    score: FiniteFloat | None = None
    reason: str | None = None
    metrics: dict[str, FiniteFloat] = {}
    """Logged, never trained on."""
    turn_scores: list[FiniteFloat] | None = None
    """One for each of the model's messages, for credit by turn."""
    parts: dict[str, WireVerdict] = {}
    """Of a composite."""
    failure: WireFailure | None = None
    """Given exactly when `status` is "failed"."""
    cost: WireCost = Field(default_factory=WireCost)


class WireVerdicts(_Wire):
    """The answers for a batch, in its order."""

    version: Literal["rft.evaluate/1"] = VERSION
    results: list[WireVerdict]


def request_of(rollout: Rollout) -> dict[str, Any]:
    """The message that asks for one rollout's score. What JSON cannot hold goes as text, NaN as null."""
    task = rollout.task
    body = {
        "id": rollout.id,
        "group_id": rollout.group_id,
        "task": {
            "id": task.id,
            "prompt": task.prompt if isinstance(task.prompt, str) else [m.to_dict() for m in task.prompt],
            "reference": task.reference,
            "metadata": dict(task.metadata),
        },
        "messages": [message.to_dict() for message in rollout.messages],
        "text": rollout.text,
        "stop": rollout.stop,
        "turns": [
            {"token_ids": turn.token_ids, "finish_reason": turn.finish_reason} for turn in rollout.turns
        ],
        "rewards": rollout.rewards,
        "env": dict(rollout.env),
        "metrics": dict(rollout.metrics),
    }
    return {
        "version": VERSION,
        "rollout": to_jsonable_python(body, inf_nan_mode="null", bytes_mode="base64", fallback=str),
    }


def rollout_of(wire: WireRollout) -> Rollout:
    """The rollout as an evaluator sees it; log-probabilities and prompt tokens stayed at home."""
    prompt = wire.task.prompt
    return Rollout(
        id=wire.id,
        group_id=wire.group_id,
        task=Task(
            wire.task.id,
            prompt if isinstance(prompt, str) else tuple(map(_message, prompt)),
            wire.task.reference,
            wire.task.metadata,
        ),
        messages=tuple(map(_message, wire.messages)),
        turns=tuple(Turn((), tuple(turn.token_ids), (), turn.finish_reason) for turn in wire.turns),
        stop=wire.stop,
        rewards=tuple(wire.rewards),
        env=wire.env,
        metrics={name: value for name, value in wire.metrics.items() if value is not None},
    )


def score_of(answer: Any) -> Score:
    """The score in a service's answer. Raises EvaluatorError (`bad_response`) when it is none."""
    if not isinstance(answer, Mapping) or not {"score", "status"} & set(answer):
        told = 'has neither "score" nor "status"; name the place of the number with the option `score`'
        raise EvaluatorError("bad_response", f"the answer {told}")
    try:
        return _score(WireVerdict.model_validate(answer))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise EvaluatorError("bad_response", f"{where} of the answer: {first['msg']}") from error
    except ValueError as error:
        raise EvaluatorError("bad_response", f"the answer contradicts itself: {error}") from error


def verdict_of(score: Score) -> dict[str, Any]:
    """The answer that tells a score."""
    told: dict[str, Any] = {"version": VERSION, "status": score.status, "score": score.value}
    told |= {"reason": score.reason, "metrics": dict(score.metrics)}
    if score.turn_values is not None:
        told["turn_scores"] = list(score.turn_values)
    if score.parts:
        told["parts"] = {name: verdict_of(part) for name, part in score.parts.items()}
    if score.failure is not None:
        told["failure"] = vars(score.failure)
    told["cost"] = vars(score.cost)
    return told


def json_schema() -> dict[str, Any]:
    """All messages, as the file for other languages has them."""
    messages = (WireRequest, WireVerdict, WireBatch, WireVerdicts)
    _, schema = models_json_schema([(model, "validation") for model in messages], title=VERSION)
    return schema


def _message(wire: WireMessage) -> Message:
    return Message.from_dict(wire.model_dump())


def _score(verdict: WireVerdict) -> Score:
    turns, failure = verdict.turn_scores, verdict.failure
    return Score(
        verdict.score,
        verdict.status,
        verdict.reason,
        metrics=verdict.metrics,
        parts={name: _score(part) for name, part in verdict.parts.items()},
        turn_values=None if turns is None else tuple(turns),
        failure=None if failure is None else Failure(**failure.model_dump()),
        cost=Cost(**verdict.cost.model_dump()),
    )

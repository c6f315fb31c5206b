"""What travels through rft: one prompt becomes a group of rollouts, each rollout gets a score.

    Task -> Rollout (made of Turns) -> Score;  a Group holds one task's rollouts and scores

All types are frozen and free of tensors, so an evaluator can be written, tested and pickled without
torch. Token ids live in `Turn`, where the engine put them; nobody turns text back into tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, SupportsFloat

Role = Literal["system", "user", "assistant", "tool"]
Status = Literal["ok", "skipped", "not_applicable", "failed"]
FailureKind = Literal[
    "timeout",
    "rate_limited",
    "transport",
    "server",
    "bad_response",
    "judge_parse",
    "sandbox",
    "circuit_open",
    "budget",
    "bug",
]
StopReason = Literal["eos", "length", "env_done", "max_turns", "tool_error"]


@dataclass(frozen=True)
class Message:
    """One chat message, in the OpenAI form.

    >>> Message("user", "What is 2+2?").to_dict()
    {'role': 'user', 'content': 'What is 2+2?'}
    """

    role: Role
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The message as chat templates and OpenAI-compatible servers take it; unset keys left out."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            out["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            out["name"] = self.name
        return out

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Message:
        """The reverse of `to_dict`. Raises KeyError without a role, ValueError for an unknown one."""
        if raw["role"] not in ("system", "user", "assistant", "tool"):
            raise ValueError(f"role must be system, user, assistant or tool, got {raw['role']!r}")
        return cls(
            role=raw["role"],
            content=raw.get("content") or "",
            tool_calls=tuple(raw.get("tool_calls") or ()),
            tool_call_id=raw.get("tool_call_id"),
            name=raw.get("name"),
        )


@dataclass(frozen=True)
class Task:
    """One row of data: what the model is asked and what an evaluator may compare with.

    >>> task = Task(id="sort-17", prompt=(Message("user", "Sort: 3 1 2"),), reference="1 2 3")
    >>> task.field("reference")
    '1 2 3'
    """

    id: str
    prompt: str | tuple[Message, ...]
    """Chat messages, or a plain string that is continued without a chat template."""
    reference: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Every other column of the row, by name."""

    def field(self, name: str) -> Any:
        """A task field by the name evaluators use in `requires`. Raises KeyError when absent."""
        if name == "reference":
            if self.reference is None:
                raise KeyError(name)
            return self.reference
        return self.metadata[name]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as messages; a plain prompt reads as one user message."""
        return (Message("user", self.prompt),) if isinstance(self.prompt, str) else self.prompt


@dataclass(frozen=True)
class Turn:
    """One model call inside a rollout: the tokens shown since the last call, then the tokens sampled.

    Concatenating `context_ids + token_ids` over a rollout's turns gives exactly the sequence the
    engine saw. Only `token_ids` are ever trained on.

    >>> Turn(context_ids=(1, 5, 9), token_ids=(7, 2), logprobs=(-0.1, -0.7), finish_reason="stop").num_tokens
    2
    """

    context_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural log-probability of each sampled token under the sampler, after temperature."""
    finish_reason: str
    """"stop" (the model ended its turn) or "length" (cut by a limit)."""
    weight_versions: tuple[tuple[int, int, int], ...] = ()
    """(version, start, end) spans over `token_ids`: which weights sampled which tokens."""

    @property
    def num_tokens(self) -> int:
        """Sampled tokens in this turn."""
        return len(self.token_ids)


@dataclass(frozen=True)
class Rollout:
    """A finished conversation between the policy and an environment. Never holds tensors.

    >>> ask = Task("t", (Message("user", "2+2?"),), reference="4")
    >>> Rollout(id="t/0", group_id="t", task=ask, messages=(*ask.messages, Message("assistant", "4"))).text
    '4'
    """

    id: str
    group_id: str
    task: Task
    messages: tuple[Message, ...]
    """The full conversation, prompt included."""
    turns: tuple[Turn, ...] = ()
    stop: StopReason = "eos"
    rewards: tuple[float | None, ...] = ()
    """What the environment gave for each turn; None is "no opinion", not zero."""
    env: Mapping[str, Any] = field(default_factory=dict)
    """The environment's final state and artefacts."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    weight_version: int = 0
    """The newest weights that sampled any of its tokens."""
    seed: int | None = None

    @property
    def text(self) -> str:
        """The last assistant message; empty when the model said nothing."""
        for message in reversed(self.messages[len(self.task.messages) :]):
            if message.role == "assistant":
                return message.content
        return ""

    @property
    def truncated(self) -> bool:
        """Whether a limit, not the model or the environment, ended it."""
        return self.stop in ("length", "max_turns")

    @property
    def num_tokens(self) -> int:
        """Sampled tokens over all turns."""
        return sum(turn.num_tokens for turn in self.turns)


@dataclass(frozen=True)
class Cost:
    """What an evaluation cost. Adds up.

    >>> Cost(usd=0.01, calls=1) + Cost(usd=0.02, calls=1)
    Cost(usd=0.03, calls=2, tokens_in=0, tokens_out=0)
    """

    usd: float = 0.0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.usd + other.usd,
            self.calls + other.calls,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.usd - other.usd,
            self.calls - other.calls,
            self.tokens_in - other.tokens_in,
            self.tokens_out - other.tokens_out,
        )


@dataclass(frozen=True)
class Failure:
    """Why an evaluation has no number.

    >>> Failure("timeout", "no answer within 30 s").kind
    'timeout'
    """

    kind: FailureKind
    detail: str
    retryable: bool = False
    retry_after_s: float | None = None
    """Seconds the service asked to be left alone."""
    hopeless: bool = False
    """Every further evaluation would fail in the same way (a refused key, a wrong address): the run stops."""


@dataclass(frozen=True)
class Score:
    """An evaluator's verdict. `value` is finite exactly when `status` is "ok".

    Raises ValueError when value, status and failure do not belong together, TypeError for a metric, part or
    value of a turn that is no number.

    >>> float(Score(0.75, reason="3 of 4 positions right"))
    0.75
    >>> float(Score.failed("server", "HTTP 503"))
    Traceback (most recent call last):
        ...
    ValueError: this evaluation failed (server: HTTP 503) and has no number
    """

    value: float | None
    status: Status = "ok"
    reason: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Logged, never trained on."""
    parts: Mapping[str, Score] = field(default_factory=dict)
    """What the value is made of, by name. A plain number becomes a Score."""
    turn_values: tuple[float, ...] | None = None
    """One value per assistant turn, for per-turn credit."""
    failure: Failure | None = None
    cost: Cost = Cost()
    evaluator: str = ""
    fingerprint: str = ""
    latency_s: float = 0.0
    attempts: int = 1
    cached: bool = False

    def __post_init__(self) -> None:
        has_number = self.value is not None and math.isfinite(self.value)
        if (self.status == "ok") != has_number or (self.status != "ok" and self.value is not None):
            raise ValueError(
                f'a Score has a finite value exactly when status is "ok", '
                f"got value={self.value!r} with status={self.status!r}"
            )
        if (self.status == "failed") != (self.failure is not None):
            raise ValueError(
                f'a Score names its failure exactly when status is "failed", got failure={self.failure!r} '
                f"with status={self.status!r}; write Score.failed(kind, detail) or Score.skip(reason)"
            )
        # What an author writes by hand: found here, in the author's line, not when a step is summed up.
        numbers = {name: _number("metrics", name, one) for name, one in self.metrics.items()}
        object.__setattr__(self, "metrics", numbers)
        object.__setattr__(self, "parts", {name: _part(name, one) for name, one in self.parts.items()})
        if self.turn_values is not None:
            values = tuple(_number("turn_values", turn, one) for turn, one in enumerate(self.turn_values))
            object.__setattr__(self, "turn_values", values)

    def __float__(self) -> float:
        if self.value is None:
            raise ValueError(f"this evaluation {self.explain()} and has no number")
        return float(self.value)

    @property
    def ok(self) -> bool:
        """Whether there is a number to train on."""
        return self.status == "ok"

    def explain(self) -> str:
        """The status in words, for messages."""
        if self.failure is not None:
            return f"failed ({self.failure.kind}: {self.failure.detail})"
        return f"was {self.status}" + (f" ({self.reason})" if self.reason else "")

    @classmethod
    def skip(cls, reason: str) -> Score:
        """The author says this cannot be judged, for example because the gold answer is broken."""
        return cls(None, "skipped", reason)

    @classmethod
    def failed(
        cls,
        kind: FailureKind,
        detail: str,
        *,
        retryable: bool = False,
        retry_after_s: float | None = None,
        hopeless: bool = False,
    ) -> Score:
        """The instrument failed: no number, masked in training, counted by kind. See `Failure`."""
        failure = Failure(kind, detail, retryable, retry_after_s, hopeless)
        return cls(None, "failed", detail, failure=failure)

    def stamped(self, **changes: Any) -> Score:
        """A copy with bookkeeping fields (evaluator, fingerprint, latency_s, ...) filled in."""
        return replace(self, **changes)


def _part(name: str, one: object) -> Score:
    return one if isinstance(one, Score) else Score(_number("parts", name, one))


def _number(field_name: str, key: object, one: object) -> float:
    if isinstance(one, SupportsFloat):
        return float(one)
    raise TypeError(f"{field_name} of a Score are numbers, got {one!r} for {key!r}")


@dataclass(frozen=True)
class Group:
    """One task's rollouts with their scores, in the same order.

    >>> ask = Task("t", "2+2?")
    >>> pair = [Rollout("t/0", "t", ask, ask.messages), Rollout("t/1", "t", ask, ask.messages)]
    >>> Group("t", ask, pair, [Score(1.0), Score.skip("gold unreadable")]).valid
    [True, False]
    """

    id: str
    task: Task
    rollouts: Sequence[Rollout]
    scores: Sequence[Score]

    def __post_init__(self) -> None:
        if len(self.rollouts) != len(self.scores):
            raise ValueError(
                f"group {self.id} has {len(self.rollouts)} rollouts but {len(self.scores)} scores"
            )

    @property
    def valid(self) -> list[bool]:
        """Which members have a number to train on."""
        return [score.ok for score in self.scores]

    def has_enough(self, share: float, least: int = 2) -> bool:
        """Whether at least max(least, ceil(share * G)) members have a number: fewer say too little."""
        # Rounded because 0.7 * 10 is 7.000000000000001 and must ask for seven members, not eight.
        return sum(self.valid) >= max(least, math.ceil(round(share * len(self.scores), 9)))

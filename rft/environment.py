"""The contract for environments: what the policy talks to. One instance per rollout.

An environment speaks messages; the engine owns tokens, log-probabilities and loss masks, so an author
cannot get them wrong. A single question is the simplest environment (`rft.environments.SingleTurn`).

    class GuessNumber(Environment):
        async def reset(self, task, *, seed):
            self.secret = random.Random(seed).randint(1, 9)
            return Observation([Message("user", "Guess my number, 1 to 9.")])

        async def step(self, action):
            right = action.content.strip() == str(self.secret)
            return Step(done=right, reward=float(right), messages=() if right else (Message("user", "No."),))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from rft.types import Message, Task


@dataclass(frozen=True)
class Observation:
    """What the policy sees first: the opening messages and the tools it may call (JSON schemas).

    `messages` may be the task's plain string prompt, which is then continued without a chat template.
    """

    messages: str | Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Step:
    """The environment's answer to one assistant message.

    Messages are appended; history is never rewritten, which keeps the tokens exact.
    """

    messages: Sequence[Message] = ()
    done: bool = False
    truncated: bool = False
    reward: float | None = None
    """Dense reward for the turn just taken; None is "no opinion", not zero."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    """Lands in `Rollout.env` for evaluators."""


class NoConfig(BaseModel):
    """The `Config` of a class that takes no arguments."""

    model_config = ConfigDict(extra="forbid")


class Environment:
    """Subclass it: `reset` opens a conversation, `step` answers the policy.

    Raise `EnvironmentFailure` when the infrastructure broke; a tool's error is a message to the model.
    """

    Config: ClassVar[type[BaseModel]] = NoConfig

    def __init__(self, **config: Any) -> None:
        """Validates `config` against the class's `Config`. Raises pydantic.ValidationError."""
        self.config: Any = self.Config(**config)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Opens the conversation for one task. `seed` is the rollout's own."""
        raise NotImplementedError(f"{type(self).__name__} must define `async def reset(self, task, *, seed)`")

    async def step(self, action: Message) -> Step:
        """Answers one assistant message."""
        raise NotImplementedError(f"{type(self).__name__} must define `async def step(self, action)`")

    async def close(self) -> None:
        """Frees what `reset` took. Always called, also on cancellation."""

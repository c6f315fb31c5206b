"""The contract for asking a chat model something: messages in, one answer out, wherever the model runs.

Judges are written against it. Over HTTP they bring their own; the one that answers with the embedded
engine's base weights is given to them by the page that opens the engine, since an evaluator knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rft.evaluator import Evaluator
from rft.types import Message


@dataclass(frozen=True)
class Reply:
    """One answer, with the tokens it was billed for.

    >>> Reply('{"score": 3}', tokens_in=212, tokens_out=6).cut
    False
    """

    text: str
    tokens_in: int
    tokens_out: int
    cut: bool = False
    """Whether `max_tokens` ended it."""


class Chat(Protocol):
    """A model that answers chat messages; safe to call many times at once."""

    @property
    def name(self) -> str:
        """Which model answers, for fingerprints and messages."""
        ...

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """One answer.

        Args:
            temperature: None leaves it to the model's server.
            schema: a JSON schema for the answer. It is held where the model's server can; readers check.

        Raises EvaluatorError when no answer comes.
        """
        ...


@runtime_checkable
class WantsBase(Protocol):
    """An evaluator that can be judged by the weights the policy started from."""

    base: Chat | None
    """Set before `setup` by whoever owns an engine."""

    @property
    def wants_base(self) -> bool:
        """Whether it was configured to."""
        ...


def wanting_base(evaluator: Evaluator) -> Iterator[WantsBase]:
    """The evaluator and those inside it that ask for the base weights."""
    if isinstance(evaluator, WantsBase) and evaluator.wants_base:
        yield evaluator
    for part in getattr(evaluator, "parts", {}).values():
        yield from wanting_base(part.evaluator)

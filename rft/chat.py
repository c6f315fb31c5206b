"""The contract for asking a chat model something: messages in, one answer out, wherever the model runs.

Judges are written against it. Over HTTP they bring their own; the one that answers with the embedded
engine's base weights is given to them by the page that opens the engine, since an evaluator knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    base_model: str
    """What those weights are called; set before its fingerprint is asked for."""
    base: Chat | None
    """Set before `setup`. Both are set by whoever owns the engine."""

    @property
    def wants_base(self) -> bool:
        """Whether it was configured to."""
        ...


def wanting_base(evaluator: Evaluator) -> list[WantsBase]:
    """The evaluator and those that it holds, as parts or attributes, if they ask for the base weights."""
    found: dict[int, Evaluator] = {}
    _collect(evaluator, found)
    return [one for one in found.values() if isinstance(one, WantsBase) and one.wants_base]


def _collect(thing: Any, found: dict[int, Evaluator]) -> None:
    if isinstance(thing, Evaluator):
        if id(thing) not in found:
            found[id(thing)] = thing
            _collect(vars(thing), found)
    elif isinstance(thing, Mapping):
        for value in thing.values():
            _collect(value, found)
    elif isinstance(thing, list | tuple):
        for value in thing:
            _collect(value, found)
    elif isinstance(getattr(thing, "evaluator", None), Evaluator):  # a part with its weight
        _collect(thing.evaluator, found)

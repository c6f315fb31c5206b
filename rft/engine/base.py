"""What the rest of rft needs from an inference engine, and nothing more.

The trainer, the rollouts and the server talk to this protocol. `vllm.py` is the real one; `scripted.py`
is a fake that ships for tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Sampling:
    """How to sample one completion.

    >>> Sampling(max_tokens=20, temperature=1.0, seed=7).top_p
    1.0
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    json_schema: Mapping[str, Any] | None = None
    """What the text sampled must be, held token by token."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any further argument of vLLM's SamplingParams."""


@dataclass(frozen=True)
class Completion:
    """What came back: the tokens as sampled, a final end-of-turn token included, with log-probabilities."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """log p(token) under the sampling distribution (after temperature), one per token."""
    finish_reason: str
    """"stop" or "length"."""
    weight_versions: tuple[tuple[int, int, int], ...] = ()
    """(version, start, end) spans over `token_ids`."""


@dataclass(frozen=True)
class Published:
    """What one publication of weights did."""

    version: int
    mode: str
    """"shared", "copy" or "adapter"."""
    seconds: float
    bytes_copied: int


@dataclass(frozen=True)
class Parity:
    """Engine and trainer on the same tokens: absolute differences of log-probabilities (nats)."""

    mean: float
    max: float
    num_tokens: int


class Engine(Protocol):
    """Asynchronous generation with continuous batching, from any thread and any event loop."""

    @property
    def version(self) -> int:
        """Version of the weights that sample the next token."""
        ...

    async def generate(
        self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None
    ) -> Completion:
        """Continues `token_ids`. Cancelling the awaiting task aborts the request.

        Raises EngineError when the engine has died, ValueError when the prompt does not fit.
        """
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Holds the engine between two steps; requests wait."""
        ...

    def close(self) -> None:
        """Frees the engine's memory and stops its thread."""
        ...

"""A fake engine that answers from a script, shipped for tests: no model, no vLLM, no torch.

engine = ScriptedEngine(tokenizer, answer=lambda prompt, sampling: "4")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rft.engine.base import Completion, Sampling


class ScriptedEngine:
    """Answers each prompt with a given text; log-probabilities are all -1."""

    def __init__(
        self, tokenizer: Any, answer: Callable[[str, Sampling], str], *, delay_s: float = 0.0
    ) -> None:
        """
        Args:
            tokenizer: turns prompts into text and answers into tokens.
            answer: (prompt text, sampling) -> answer text.
            delay_s: seconds each answer takes.
        """
        self._tokenizer, self._answer, self._delay_s = tokenizer, answer, delay_s
        self.version = 0
        self.prompts: list[list[int]] = []
        """Every prompt asked, as token ids, in order."""

    async def generate(
        self, token_ids: Sequence[int], sampling: Sampling, *, adapter: str | None = None
    ) -> Completion:
        """The scripted answer, closed by the end token unless `max_tokens` cuts it."""
        self.prompts.append(list(token_ids))
        await asyncio.sleep(self._delay_s)
        text = self._answer(self._tokenizer.decode(list(token_ids)), sampling)
        ids = [*self._tokenizer(text, add_special_tokens=False)["input_ids"], self._tokenizer.eos_token_id]
        kept = tuple(ids[: sampling.max_tokens])
        return Completion(
            token_ids=kept,
            logprobs=(-1.0,) * len(kept),
            finish_reason="stop" if len(kept) == len(ids) else "length",
            weight_versions=((self.version, 0, len(kept)),),
        )

    def paused(self) -> AbstractContextManager[None]:
        """Nothing to hold."""
        return nullcontext()

    def close(self) -> None:
        """Nothing to free."""

"""The embedded engine as a chat model beside the rollouts: it answers with the base weights.

A judge must not learn with the policy it judges, so the adapter is left out of its requests. They wait in the
engine's queue like any others; the engine takes requests first come, first served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rft.chat import Reply
from rft.engine.base import Engine, Sampling
from rft.errors import EngineError, EvaluatorError, ModelError
from rft.rollout.conversation import ChatTemplate
from rft.types import Message


class BaseChat:
    """A `rft.chat.Chat` that answers with the weights under the policy's adapter."""

    def __init__(self, engine: Engine, template: ChatTemplate, *, max_total_tokens: int) -> None:
        """Args:
        max_total_tokens: the engine's longest sequence, prompt and answer together.
        """
        self._engine = engine
        self._template = template
        self._max_total_tokens = max_total_tokens

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """See `rft.chat.Chat.chat`; an unset temperature is 1, the schema is always held.

        Raises EvaluatorError: a bug when question and answer together are too long for the engine.
        """
        ids = self._open(messages)
        if len(ids) + max_tokens > self._max_total_tokens:
            raise EvaluatorError(
                "bug",
                f"a question of {len(ids)} tokens and an answer of {max_tokens} do not fit the engine's "
                f"{self._max_total_tokens}; raise engine.max_model_len, or lower the judge's max_tokens or "
                "max_chars",
            )
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if temperature is None else temperature,
            json_schema=schema,
        )
        try:
            completion = await self._engine.generate(ids, sampling, adapter="base")
        except EngineError as error:
            # No service that comes back: waiting for it would only hide that the run is over.
            raise EvaluatorError("bug", str(error)) from error
        return Reply(
            self._template.text(completion.token_ids),
            tokens_in=len(ids),
            tokens_out=len(completion.token_ids),
            cut=completion.finish_reason == "length",
        )

    def _open(self, messages: Sequence[Message]) -> list[int]:
        harmless = [replace(one, content=self._template.harmless(one.content)) for one in messages]
        try:
            return self._template.opening(harmless)
        except ModelError:  # some families have no system role: it is told with the question then
            orders = "\n\n".join(one.content for one in harmless)
            return self._template.opening([Message("user", orders)])

"""Messages to tokens, once: a conversation only ever grows by tokens that were sampled or rendered anew.

The opening is the chat template's rendering. Each later message is rendered behind a stand-in exchange and
only its own part is tokenized, so what the model sampled is never turned into text and back. Templates
that drop or rewrite earlier turns (hidden reasoning, say) therefore cannot change the sampled tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft.errors import ModelError
from rft.types import Message, Task


class Conversation:
    """The token side of one rollout. `ids` is exactly what the engine has seen and sampled."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.ids: list[int] = []

    def open(self, messages: str | Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Renders the opening; returns the tokens added."""
        self._tools = tools
        return self._grow(self._template.opening(messages, tools))

    def sampled(self, token_ids: Sequence[int]) -> Message:
        """Takes in what the policy sampled, as it is; returns it as a message."""
        self.ids.extend(token_ids)
        return Message("assistant", self._template.text(token_ids))

    def append(self, said: Message, replies: Sequence[Message]) -> tuple[int, ...]:
        """Renders the environment's answer to `said`; returns the tokens added."""
        return self._grow(self._template.continuation(said, replies, self._tools, ended=self._ended()))

    def _ended(self) -> bool:
        return self.ids[-1] in self._template.end_ids

    def _grow(self, added: Sequence[int]) -> tuple[int, ...]:
        self.ids.extend(added)
        return tuple(added)


class ChatTemplate:
    """A tokenizer's chat template, as conversations need it."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int] = ()) -> None:
        """`end_ids`: tokens with which the model ends its turn; the tokenizer's end token always counts."""
        self._tokenizer = tokenizer
        self.end_ids = frozenset(end_ids) | {tokenizer.eos_token_id}

    def opening(self, messages: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Token ids of a prompt: rendered chat, or plain text with the tokenizer's special tokens.

        Raises ModelError when messages are given and the tokenizer has no chat template.
        """
        if isinstance(messages, str):
            return list(self._tokenizer(messages)["input_ids"])
        return self._encode(self._render(messages, tools, generate=True))

    def count(self, task: Task) -> int:
        """Tokens of a task's prompt."""
        return len(self.opening(task.prompt))

    def continuation(
        self, said: Message, replies: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, ended: bool
    ) -> list[int]:
        """Token ids of `replies` and of the next turn's opening, placed behind a sampled turn.

        Args:
            said: the sampled message, for templates that tie tool results to calls.
            ended: whether the sampled tokens close their turn themselves; if not it is closed here.

        Raises ModelError for a template whose rendering of a conversation does not begin with the
        rendering of its beginning.
        """
        stand_in = [Message("user", "-"), Message("assistant", "-", tool_calls=said.tool_calls)]
        before = self._render(stand_in, tools, generate=False)
        after = self._render([*stand_in, *replies], tools, generate=True)
        if not after.startswith(before):
            raise ModelError("the chat template rewrites earlier turns; give model.chat_template one that only appends")
        closing = self._closing(before) if ended else before[before.rindex("-") + 1 :]
        return self._encode(closing + after[len(before) :])

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of sampled tokens, special tokens removed."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def _closing(self, rendered: str) -> str:
        """What a template writes after the token that ends a turn: often a line break."""
        for end_id in self.end_ids:
            end = self._tokenizer.convert_ids_to_tokens(end_id)
            if end in rendered:
                return rendered[rendered.rindex(end) + len(end) :]
        return ""

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, generate: bool) -> str:
        if getattr(self._tokenizer, "chat_template", None) is None:
            raise ModelError(
                "this model has no chat template: set model.chat_template to a Jinja file, or data.train.chat: false"
            )
        return str(
            self._tokenizer.apply_chat_template(
                [message.to_dict() for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                add_generation_prompt=generate,
                tokenize=False,
            )
        )

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

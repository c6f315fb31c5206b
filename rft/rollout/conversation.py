"""Messages to tokens, once: a conversation only ever grows by tokens that were sampled or rendered anew.

The opening is the chat template's rendering. What comes after a sampled turn is rendered behind a stand-in
for that turn, and only what follows the stand-in is tokenized; so what the model sampled is never turned into
text and back. Templates that drop or rewrite earlier turns (hidden reasoning, say) cannot change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from rft.errors import ModelError
from rft.types import Message, Task

_STAND_IN = "@@said@@"


class Conversation:
    """The token side of one rollout. `ids` is exactly what the engine has seen and sampled."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._tools: Sequence[Mapping[str, Any]] = ()
        self.ids: list[int] = []

    def open(
        self, messages: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[int, ...]:
        """Renders the opening; returns the tokens added."""
        self._tools = tools
        return self._grow(self._template.opening(messages, tools))

    def sampled(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> Message:
        """Takes in what the policy sampled, as it is; returns it as a message.

        The message ends before a text in `stop`, as an OpenAI-compatible server answers; the tokens keep it.
        """
        self.ids.extend(token_ids)
        text = self._template.text(token_ids)
        for ending in stop:
            text = text.partition(ending)[0]
        return Message("assistant", text)

    def append(self, replies: Sequence[Message]) -> tuple[int, ...]:
        """Renders the environment's answer to the sampled turn; returns the tokens added."""
        return self._grow(self._template.continuation(replies, self._tools, last_id=self.ids[-1]))

    def _grow(self, added: Sequence[int]) -> tuple[int, ...]:
        self.ids.extend(added)
        return tuple(added)


class ChatTemplate:
    """A tokenizer's chat template, as conversations need it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._commands = {token for token in tokenizer.get_added_vocab() if len(token) > 1}

    def opening(
        self, messages: str | Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Token ids of a prompt: rendered chat, or plain text with the tokenizer's special tokens.

        Raises ModelError when messages are given and the tokenizer has no chat template, or one that
        refuses them.
        """
        if isinstance(messages, str):
            return list(self._tokenizer(messages)["input_ids"])
        return self._encode(self._render(messages, tools))

    def count(self, task: Task) -> int:
        """Tokens of a task's prompt."""
        return len(self.opening(task.prompt))

    def continuation(
        self, replies: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, last_id: int
    ) -> list[int]:
        """Token ids from the end of a sampled turn to the beginning of the next one.

        Args:
            last_id: the last token sampled. Where the template closes a turn with this very token, it is not
                written twice; a turn that ended otherwise (a stop text) is closed here.

        Raises ModelError for a template that refuses the messages or leaves out what the model said.
        """
        rendered = self._render([Message("user", "-"), Message("assistant", _STAND_IN), *replies], tools)
        _, found, after = rendered.partition(_STAND_IN)
        if not found:
            raise ModelError(
                "the chat template leaves out the model's own turns: set model.chat_template to one that "
                "keeps them"
            )
        added = self._encode(after)
        return added[1:] if added[:1] == [last_id] else added

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of sampled tokens, special tokens removed."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def harmless(self, text: str) -> str:
        """The text with a zero-width space inside what would become a special token of this tokenizer.

        For text by others: as it stands it could close the message it is put into and open another.
        """
        for command in self._commands:
            text = text.replace(command, f"{command[0]}\u200b{command[1:]}")
        return text

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        if getattr(self._tokenizer, "chat_template", None) is None:
            raise ModelError(
                "this model has no chat template: set model.chat_template to a Jinja file, "
                "or data.train.chat: false"
            )
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [message.to_dict() for message in messages],
                    tools=[dict(tool) for tool in tools] or None,
                    add_generation_prompt=True,
                    tokenize=False,
                )
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ModelError(
                f"the model's chat template does not take messages by {roles}: {error}"
            ) from error

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

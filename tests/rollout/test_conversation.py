"""Tokens as the policy saw them: never rendered twice, never re-tokenised, equal to a full rendering."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rft.errors import ModelError
from rft.models.tiny import CHAT_TEMPLATE, tiny_tokenizer
from rft.rollout.conversation import ChatTemplate, Conversation
from rft.types import Message, Task

ASK = Message("user", "Sort: 3 1 2")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


def rendered(tokenizer, messages: Sequence[Message], *, generate: bool = True, tools=None) -> list[int]:
    """The second implementation: the whole conversation through the template at once."""
    text = tokenizer.apply_chat_template(
        [message.to_dict() for message in messages],
        tools=tools,
        add_generation_prompt=generate,
        tokenize=False,
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def sampled(tokenizer, text: str) -> list[int]:
    return tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]


def test_an_opening_is_the_templates_rendering(tokenizer):
    template = ChatTemplate(tokenizer)
    assert template.opening([Message("system", "Be brief."), ASK]) == rendered(
        tokenizer, [Message("system", "Be brief."), ASK]
    )
    assert template.count(Task("t", (ASK,))) == len(rendered(tokenizer, [ASK]))


def test_a_plain_prompt_is_continued_without_a_template(tokenizer):
    tokenizer.chat_template = None
    assert tokenizer.decode(ChatTemplate(tokenizer).opening("3 1 2 ->")) == "3 1 2 ->"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
replies = st.lists(
    st.builds(Message, st.sampled_from(["user", "tool", "system"]), texts), min_size=1, max_size=3
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(exchanges=st.lists(st.tuples(texts, replies), max_size=4), last=texts)
def test_any_conversation_equals_its_full_rendering(tokenizer, exchanges, last):
    conversation = Conversation(ChatTemplate(tokenizer))
    pieces = [list(conversation.open([ASK]))]
    messages = [ASK]
    for said, answers in exchanges:
        ids = sampled(tokenizer, said)
        assert conversation.sampled(ids) == Message("assistant", said)
        pieces += [ids, list(conversation.append(answers))]
        messages += [Message("assistant", said), *answers]
    conversation.sampled(sampled(tokenizer, last))
    pieces.append(sampled(tokenizer, last))
    messages.append(Message("assistant", last))
    assert conversation.ids == [token for piece in pieces for token in piece]
    # What a full rendering has more is the line break behind the last turn, which nobody has sampled.
    assert [*conversation.ids, *tokenizer("\n")["input_ids"]] == rendered(tokenizer, messages, generate=False)


def test_a_turn_that_its_own_end_token_did_not_end_is_closed(tokenizer):
    conversation = Conversation(ChatTemplate(tokenizer))
    conversation.open([ASK])
    conversation.sampled(tokenizer("1 2 3.")["input_ids"])  # ended by a stop text
    conversation.append([Message("user", "Again.")])
    assert conversation.ids == rendered(
        tokenizer, [ASK, Message("assistant", "1 2 3."), Message("user", "Again.")]
    )


def test_another_end_token_stays_and_the_turn_is_closed_behind_it(tokenizer):
    conversation = Conversation(ChatTemplate(tokenizer))
    conversation.open([ASK])
    other = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    conversation.sampled([*tokenizer("1")["input_ids"], other])
    added = conversation.append([Message("user", "?")])
    text = "<|im_end|>\n<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(added) == text


def test_a_message_ends_before_the_stop_text_and_the_tokens_keep_it(tokenizer):
    conversation = Conversation(ChatTemplate(tokenizer))
    ids = tokenizer("1 2 3</answer>")["input_ids"]
    assert conversation.sampled(ids, stop=["###", "</answer>"]).content == "1 2 3"
    assert conversation.ids == ids


def test_tools_are_told_once_at_the_opening(tokenizer):
    tokenizer.chat_template = "{% if tools %}TOOLS:{{ tools[0].function.name }}\n{% endif %}" + CHAT_TEMPLATE
    conversation = Conversation(ChatTemplate(tokenizer))
    conversation.open([ASK], [TOOL])
    said = Message("assistant", '{"name": "add"}')
    conversation.sampled(sampled(tokenizer, said.content))
    conversation.append([Message("tool", "6", tool_call_id="1")])
    expected = rendered(tokenizer, [ASK, said, Message("tool", "6", tool_call_id="1")], tools=[TOOL])
    assert conversation.ids == expected
    assert tokenizer.decode(conversation.ids).count("TOOLS:add") == 1


STRIPS_THINKING = (
    "{% set ns = namespace(last=0) %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.index0 > ns.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_rewrites_its_history_cannot_change_what_was_sampled(tokenizer):
    """Qwen3's way: thoughts are dropped from earlier turns and an empty thought is put into the last."""
    tokenizer.chat_template = STRIPS_THINKING
    conversation = Conversation(ChatTemplate(tokenizer))
    opening = conversation.open([ASK])
    said = sampled(tokenizer, "<think>hm, 1 first</think>1 2 3")
    conversation.sampled(said)
    added = conversation.append([Message("user", "Sure?")])
    assert conversation.ids == [*opening, *said, *added]
    assert tokenizer.decode(added) == "\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('System role not supported') }}", "user, assistant, user: System role not supp"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "leaves out the model's own",
        ),
    ],
)
def test_a_template_that_cannot_hold_a_conversation_says_so(tokenizer, template, said):
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=said):
        ChatTemplate(tokenizer).continuation([Message("user", "?")], last_id=0)

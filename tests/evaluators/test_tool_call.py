"""Calls as an engine with a tool parser delivers them: in the message, not in its text."""

from __future__ import annotations

import pytest

from rft import Message, Rollout, Task
from rft.evaluators import ToolCall

WEATHER = [{"name": "weather", "arguments": {"city": "Paris"}}]


def judged(*messages, reference=WEATHER, **options):
    task = Task("t", (Message("user", "Weather in Paris?"),), reference=reference)
    rollout = Rollout("t/0", "t", task, (*task.messages, *messages))
    return ToolCall(**options).evaluate(rollout)


def called(name, arguments, text=""):
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return Message("assistant", text, tool_calls=(call,))


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (called("weather", '{"city": "Paris"}'), 1.0),
        (called("weather", '{"city": "Paris"}', text="I look it up."), 1.0),
        (called("weather", '{"city": "Rome"}', text='weather(city="Paris")'), 0.0),
        (called("weather", '{"city": '), 0.0),
        (called("weather", "[]"), 0.0),
        (Message("assistant", 'weather(city="Paris")'), 1.0),
        (Message("assistant", 'weather(city="Paris").__class__'), 0.0),
        (Message("assistant", "weather(city=open('/etc/passwd').read())"), 0.0),
        (Message("assistant", "weather(**{'city': 'Paris'})"), 0.0),
        (Message("assistant", "<tool_call>" * 20_000), 0.0),
        (Message("assistant", "[" + ", ".join(['weather(city="Paris")'] * 50) + "]"), 1 / 50),
    ],
)
def test_calls_are_read_where_they_stand_and_nothing_is_run(message, value):
    assert judged(message).value == pytest.approx(value)


def test_the_last_assistant_message_counts():
    first, last = called("time", "{}"), called("weather", '{"city": "Paris"}')
    answer = Message("tool", "12:00", tool_call_id="1")
    assert judged(first, answer, last).value == 1.0
    assert judged(last, answer, first).value == 0.0


def test_where_no_call_is_wanted_a_call_is_wrong_and_so_is_silence():
    assert judged(Message("assistant", "I do not know."), reference=[]).value == 1.0
    assert judged(called("weather", "{}"), reference=[]).value == 0.0
    assert judged(Message("assistant", ""), reference=[]).value == 0.0


def test_each_call_made_is_credited_once():
    wanted = [
        {"name": "f", "arguments": {"x": {"any_of": [1, 2]}}},
        {"name": "f", "arguments": {"x": 1}},
    ]
    assert judged(Message("assistant", "[f(x=1), f(x=2)]"), reference=wanted).value == 1.0
    assert judged(Message("assistant", "f(x=1)"), reference=wanted).value == 0.5
    assert judged(Message("assistant", "[f(x=2), f(x=2)]"), reference=wanted).value == 0.5

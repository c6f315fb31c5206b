"""`@evaluator`: arguments by name, configuration, pickling."""

from __future__ import annotations

import json
import pickle

import pytest

from rft.evaluator import (
    Evaluator,
    Limits,
    evaluator,
)
from rft.types import Message, Rollout, Task


def rollout(text="4", prompt="2+2?", reference="4", **fields):
    task = Task("t", (Message("user", prompt),), reference, fields)
    return Rollout("t/0", "t", task, (*task.messages, Message("assistant", text)))


def test_a_function_gets_what_its_signature_names():
    @evaluator
    def judge(text, prompt, reference, colour, task, rollout, messages):
        return [text, prompt, reference, colour, task.id, rollout.id, len(messages)]

    assert judge.evaluate(rollout(colour="red")) == ["4", "2+2?", "4", "red", "t", "t/0", 2]


def test_a_function_with_kwargs_gets_every_field():
    @evaluator
    def judge(text, **rest):
        return sorted(rest)

    assert judge.evaluate(rollout(colour="red")) == [
        "colour",
        "messages",
        "prompt",
        "reference",
        "rollout",
        "task",
    ]


def test_a_missing_reference_leaves_the_default_of_the_signature():
    @evaluator
    def judge(text, reference="unknown"):
        return reference

    assert judge.evaluate(rollout(reference=None)) == "unknown"
    assert judge.evaluate(rollout(reference="4")) == "4"


def test_fields_without_a_default_are_required():
    @evaluator
    def judge(text, reference, colour, weight=1.0, *rest, **others):
        return 0.0

    assert judge.requires == {"reference", "colour"}


def test_configuring_a_function_leaves_the_original_alone():
    @evaluator
    def judge(text, colour, bonus=0.0):
        return (colour, bonus)

    twin = judge.configured(colour="blue", bonus=0.5)
    assert twin.evaluate(rollout()) == ("blue", 0.5)
    assert twin.requires == frozenset()
    assert judge.requires == {"colour"}
    assert judge.fingerprint() != twin.fingerprint()
    with pytest.raises(TypeError, match="takes no argument 'bonsu'"):
        judge.configured(bonsu=1)


def test_the_decorated_function_still_works_as_a_function():
    @evaluator(range=(-1, 1), name="tone")
    def judge(text):
        """Says one."""
        return 1

    assert judge("anything") == 1
    assert (judge.name, judge.range, judge.__doc__) == ("tone", (-1, 1), "Says one.")


def test_an_unknown_option_is_named_beside_the_known_ones():
    with pytest.raises(TypeError, match="no option 'rnage'.*range"):
        evaluator(rnage=(0, 1))(lambda text: 1)


def test_is_async_speaks_of_the_function_behind_the_decorator():
    @evaluator
    async def slow(text):
        return 1

    assert slow.is_async
    assert not evaluator(lambda text: 1).is_async
    assert Evaluator().is_async


@evaluator(range=(0, 2), limits=Limits(attempts=1))
def named(text, bonus=0.0):
    return bonus


def test_it_pickles_with_its_options_and_configuration():
    again = pickle.loads(pickle.dumps(named.configured(bonus=1.5)))
    assert again.function is named.function
    assert (again.range, again.limits.attempts, again.evaluate(rollout())) == ((0, 2), 1, 1.5)
    assert again.fingerprint() == named.configured(bonus=1.5).fingerprint() != named.fingerprint()


def test_one_that_was_never_given_a_name_pickles_with_its_function():
    again = pickle.loads(pickle.dumps(evaluator(json.dumps)))
    assert again.function is json.dumps

"""Batch, group and pairwise evaluators as their authors see them."""

from __future__ import annotations

import asyncio

import pytest

from rft.errors import EvaluatorError
from rft.evaluator import (
    BatchEvaluator,
    Evaluator,
    GroupEvaluator,
    PairwiseEvaluator,
)
from rft.types import Message, Rollout, Task


def rollout(text="4", prompt="2+2?", reference="4", **fields):
    task = Task("t", (Message("user", prompt),), reference, fields)
    return Rollout("t/0", "t", task, (*task.messages, Message("assistant", text)))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (Evaluator, "evaluate"),
        (BatchEvaluator, "evaluate_batch"),
        (GroupEvaluator, "evaluate_group"),
        (PairwiseEvaluator, "compare"),
    ],
)
def test_what_must_be_defined_is_named(kind, method):
    judge = type("Judge", (kind,), {})()
    arguments = (rollout(), rollout()) if method == "compare" else (rollout(),)
    with pytest.raises(NotImplementedError, match=rf"Judge must define `{method}\(self, "):
        asyncio.run(getattr(judge, method)(*arguments))


def test_is_async_speaks_of_the_method_that_is_called():
    class Plain(PairwiseEvaluator):
        def compare(self, first, second):
            return 0.5

    assert not Plain().is_async
    assert PairwiseEvaluator().is_async


def test_one_rollout_alone_cannot_be_compared():
    with pytest.raises(TypeError, match="GroupEvaluator compares rollouts"):
        asyncio.run(GroupEvaluator().evaluate(rollout()))


def test_the_reference_is_the_baseline_unless_another_is_given():
    against = PairwiseEvaluator().baseline([rollout(reference="the reference")])
    assert (against.text, against.id) == ("the reference", "t/baseline")
    with pytest.raises(EvaluatorError, match="task t has none"):
        PairwiseEvaluator().baseline([rollout(reference=None)])

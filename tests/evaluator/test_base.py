"""The evaluator contract: configuration, fingerprints, where golden cases come from."""

from __future__ import annotations

import asyncio

import pydantic
import pytest

from rft.evaluator import Evaluator
from rft.types import Message, Rollout, Score, Task


def rollout(text="4", prompt="2+2?", reference="4", **fields):
    task = Task("t", (Message("user", prompt),), reference, fields)
    return Rollout("t/0", "t", task, (*task.messages, Message("assistant", text)))


class Near(Evaluator):
    class Config(pydantic.BaseModel):
        tolerance: float = 0.5

    async def evaluate(self, rollout):
        return abs(float(rollout.text) - 4) < self.config.tolerance


def test_configuration_is_validated_and_unknown_keys_are_refused_without_a_config():
    assert Near(tolerance="0.1").config.tolerance == 0.1
    with pytest.raises(pydantic.ValidationError):
        Near(tolerance="wide")
    with pytest.raises(pydantic.ValidationError, match="Extra inputs"):
        Evaluator(tolerance=1)


def test_an_evaluator_is_called_after_its_class_unless_it_has_a_name():
    assert Near().name == "Near"
    assert type("Named", (Near,), {"name": "close"})().name == "close"


def test_the_fingerprint_follows_configuration_version_and_bases():
    class Nearer(Near):
        pass

    class OtherBase(Evaluator):
        pass

    same, other = Near().fingerprint(), Near(tolerance=0.1).fingerprint()
    assert same == Near(tolerance=0.5).fingerprint() != other
    newer = Near()
    newer.version = "1"
    assert newer.fingerprint() != same
    assert len({same, Nearer().fingerprint(), OtherBase().fingerprint()}) == 3


def test_the_fingerprint_sees_code_that_has_no_file():
    def typed_in(body):
        scope = {"Evaluator": Evaluator}
        exec(f"class Typed(Evaluator):\n    async def evaluate(self, rollout):\n        return {body}", scope)
        return scope["Typed"]().fingerprint()

    assert typed_in("0.5") == typed_in("0.5")
    assert typed_in("0.5") != typed_in("0.6")
    assert typed_in("rollout.text") != typed_in("rollout.id")


def test_an_evaluator_that_skips_the_base_constructor_still_has_a_fingerprint():
    class Own(Evaluator):
        def __init__(self):
            self.threshold = 3

    assert len(Own().fingerprint()) == 16


def test_scores_of_a_group_are_settled_as_they_are_by_default():
    scores = [Score(1.0), Score.skip("no gold")]
    assert asyncio.run(Near().settle([rollout(), rollout()], scores)) == scores

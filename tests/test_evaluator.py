"""The evaluator contract: injection by name, configuration, golden cases, fingerprints."""

from __future__ import annotations

import asyncio

import pydantic
import pytest

from rft.evaluator import Case, Evaluator, Limits, evaluator
from rft.types import Message, Rollout, Score, Task


def rollout(text="4", prompt="2+2?", reference="4", **fields):
    task = Task("t", (Message("user", prompt),), reference, fields)
    return Rollout("t/0", "t", task, (*task.messages, Message("assistant", text)))


class Near(Evaluator):
    class Config(pydantic.BaseModel):
        tolerance: float = 0.5

    async def evaluate(self, rollout):
        return abs(float(rollout.text) - 4) < self.config.tolerance


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
    assert Near().is_async


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


@pytest.mark.parametrize(
    ("expect", "score", "holds"),
    [
        (0.5, Score(0.5), True),
        (0.5, Score(0.5001), False),
        ((0.2, 0.4), Score(0.3), True),
        ((0.2, 0.4), Score(0.5), False),
        ("unscored", Score.skip("no gold"), True),
        ("unscored", Score(0.0), False),
        (0.0, Score.failed("server", "HTTP 500"), False),
    ],
)
def test_a_case_holds_for_the_expected_score_only(expect, score, holds):
    assert Case("p", "c", expect).holds(score) is holds


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"attempts": 0},
        {"timeout_s": 0},
        {"deadline_s": -1},
        {"rpm": 0},
        {"backoff_s": -1},
    ],
)
def test_limits_that_would_stop_everything_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)

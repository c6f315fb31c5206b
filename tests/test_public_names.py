"""The public names: few, listed here, explained, and enough to write and try an evaluator."""

from __future__ import annotations

import inspect

import pytest

import rft

PUBLIC = [
    "BatchEvaluator",
    "Case",
    "Cost",
    "Environment",
    "EnvironmentFailure",
    "Evaluator",
    "EvaluatorError",
    "Failure",
    "Group",
    "GroupEvaluator",
    "HTTPEvaluator",
    "Limits",
    "Message",
    "Observation",
    "PairwiseEvaluator",
    "Rollout",
    "Score",
    "Step",
    "Task",
    "Turn",
    "evaluator",
    "score",
]

LOADED_WHEN_NAMED = {"HTTPEvaluator"}


def test_the_public_names_are_these_and_no_others():
    """A name is added or taken away here, on purpose, or not at all."""
    assert rft.__all__ == PUBLIC
    visible = {
        name for name, value in vars(rft).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert visible == set(PUBLIC) - LOADED_WHEN_NAMED


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_explains_itself(name):
    explained = inspect.getdoc(getattr(rft, name)) or ""
    # A dataclass without words of its own gets its signature as docstring.
    assert explained and not explained.startswith(f"{name}(")


def test_they_are_enough_to_write_an_evaluator_and_try_it():
    @rft.evaluator
    def exact(text, reference):
        return text.strip() == reference

    class Near(rft.Evaluator):
        requires = frozenset({"reference"})

        async def evaluate(self, rollout):
            if not rollout.text:
                raise rft.EvaluatorError("bad_response", "nothing to judge")
            return rft.Score(0.5, reason="close enough")

    asked = {"prompt": "2+2?", "reference": "4"}
    assert float(rft.score(exact, completion=" 4", **asked)) == 1.0
    assert float(rft.score(Near(), completion="5", **asked)) == 0.5
    failed = rft.score(Near(), completion="", **asked)
    assert failed.value is None and failed.failure is not None and failed.failure.kind == "bad_response"

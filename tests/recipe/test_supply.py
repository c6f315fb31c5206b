"""What decides which groups a step gets, and what of it does not go together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rft.recipe.schema import Recipe


def recipe(rollout: dict[str, Any], algorithm: dict[str, Any]) -> Recipe:
    needed = {"model": {"source": "m"}, "data": {"train": "t.jsonl"}, "evaluator": "exact"}
    return Recipe.model_validate(needed | {"rollout": rollout, "algorithm": algorithm})


@pytest.mark.parametrize(
    ("rollout", "algorithm", "said"),
    [
        ({"refill_rounds": 2}, {"kind": "ppo"}, "rollout.refill_rounds replaces groups that teach nothing"),
        ({"refill_rounds": 2}, {"advantage": "reinforce_pp"}, "rollout.refill_rounds replaces"),
        ({"keep_partial": True}, {}, "rollout.keep_partial has nothing to keep; set rollout.oversample"),
        (
            {"keep_partial": True, "oversample": 2, "one_step_off": True},
            {},
            "rollout.max_staleness must be at least 2",
        ),
        ({"max_staleness": 3}, {}, "rollout.max_staleness bounds nothing: set rollout.keep_partial"),
        ({"lockstep": True, "oversample": 1.5}, {}, "rollout.lockstep keeps runs the same"),
        ({"one_step_off": True}, {"mismatch": {"mode": "off"}}, "algorithm.mismatch.mode must not be off"),
        (
            {"keep_partial": True, "oversample": 2},
            {"mismatch": {"mode": "off"}},
            "algorithm.mismatch.mode must not be off: rollout.keep_partial",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_at_its_key(rollout, algorithm, said):
    with pytest.raises(ValidationError, match=said):
        recipe(rollout, algorithm)


@pytest.mark.parametrize(
    "rollout",
    [
        {"refill_rounds": 3, "oversample": 1.5, "keep_partial": True},
        {"keep_partial": True, "oversample": 2, "one_step_off": True, "max_staleness": 2},
        {"one_step_off": True, "refill_rounds": 1, "lockstep": True},
    ],
)
def test_the_rest_goes_together(rollout):
    assert recipe(rollout, {}).rollout.group_size == 8


def test_learning_from_examples_asks_for_no_groups():
    assert recipe({"refill_rounds": 2}, {"kind": "sft"}).algorithm.kind == "sft"


@pytest.mark.parametrize("low", [0.5, 0.9])
def test_a_curriculum_with_nothing_in_the_middle_is_refused(low):
    curriculum = {"low": low, "high": 0.5}
    needed = {"model": {"source": "m"}, "evaluator": "exact"}
    with pytest.raises(ValidationError, match="data.curriculum.low must be below data.curriculum.high"):
        Recipe.model_validate(needed | {"data": {"train": "t.jsonl", "curriculum": curriculum}})

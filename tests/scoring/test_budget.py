"""What a run will cost is said before it is spent."""

from __future__ import annotations

import pytest

from rft.recipe.schema import Recipe
from rft.scoring.budget import Projection, evaluations_left


def recipe(**sections):
    return Recipe(model="packaged:tiny", data={"train": "t.jsonl"}, evaluator="exact", **sections)


@pytest.mark.parametrize(
    ("steps", "every", "step", "rollouts", "held_out"),
    [
        (10, 5, 0, 10, 3),  # before, 5, 10
        (10, 4, 0, 10, 4),  # before, 4, 8, at the end
        (10, 0, 0, 10, 2),  # before, at the end
        (10, 5, 5, 5, 1),  # 10
        (10, 4, 5, 5, 2),  # 8, at the end
    ],
)
def test_evaluations_of_a_run_are_rollouts_and_held_out_answers(steps, every, step, rollouts, held_out):
    plan = recipe(
        train={"steps": steps, "prompts_per_step": 3},
        rollout={"group_size": 4},
        eval={"every": every, "tasks": 7, "samples": 2, "temperature": 1.0},
    )
    assert evaluations_left(plan, step) == rollouts * 12 + held_out * 14


def test_a_projection_shows_its_sum():
    projection = Projection(spent_usd=0.02, evaluations=10, left=1000, max_usd=1.0)
    assert (projection.mean_usd, projection.total_usd, projection.fits) == (0.002, 2.02, False)
    assert str(projection) == (
        "1,000 evaluations at 0.0020 USD (the mean of 10) cost 2.00 USD, 2.02 with those: over the 1 allowed"
    )


@pytest.mark.parametrize(("max_usd", "evaluations"), [(None, 10), (2.1, 10), (0.0001, 0)])
def test_what_fits_or_cannot_be_told_is_let_through(max_usd, evaluations):
    spent = 0.02 if evaluations else 0.0
    assert Projection(spent, evaluations, 1000, max_usd).fits

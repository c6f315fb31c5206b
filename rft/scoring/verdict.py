"""What an evaluator returned becomes a `Score`, or a failure that says what was wrong with it.

A number outside the declared range is a broken promise of the instrument (`bad_response`), not something to
clip: a clipped reward trains the model on a lie. A value that is no verdict at all is the author's bug.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from rft.types import Rollout, Score


def as_score(verdict: Any, rollout: Rollout, bounds: tuple[float, float]) -> Score:
    """A `Score` whose value, when it has one, is a finite float within `bounds`. Never raises."""
    if isinstance(verdict, Score):
        score = verdict
    elif isinstance(verdict, Mapping):
        score = _from_mapping(verdict)
    else:
        score = _from_number(verdict)
    if score.value is None:
        return score
    low, high = bounds
    if not low <= score.value <= high:
        return Score.failed(
            "bad_response", f"score {score.value:g} is outside the declared range [{low:g}, {high:g}]"
        )
    if score.turn_values is not None and (wrong := _wrong_turns(score.turn_values, rollout)):
        return wrong
    return score


def _from_number(verdict: Any) -> Score:
    if getattr(verdict, "ndim", None) == 0 and hasattr(verdict, "item"):  # a NumPy or torch scalar
        verdict = verdict.item()
    if verdict is None:
        return Score.failed(
            "bug",
            "evaluate returned None; return a number, or Score.skip(reason) to leave the sample unjudged",
        )
    if not isinstance(verdict, Real):
        return Score.failed(
            "bug",
            f"evaluate returned a {type(verdict).__name__}; "
            'return a number, a bool, a Score, or a mapping with the key "score"',
        )
    try:
        value = float(verdict)
    except OverflowError:  # an int or fraction beyond the largest float
        value = math.inf
    if not math.isfinite(value):
        return Score.failed("bad_response", f"score is {value}, not a finite number")
    return Score(value)


def _from_mapping(verdict: Mapping[Any, Any]) -> Score:
    if "score" not in verdict:
        return Score.failed(
            "bug", f'evaluate returned a mapping without the key "score": {sorted(map(str, verdict))}'
        )
    score = _from_number(verdict["score"])
    try:
        metrics = {str(key): float(value) for key, value in verdict.items() if key != "score"}
    except (TypeError, ValueError, OverflowError) as error:
        return Score.failed("bug", f"evaluate returned a metric that is not a number: {error}")
    return score.stamped(metrics=metrics)


def _wrong_turns(values: tuple[float, ...], rollout: Rollout) -> Score | None:
    turns = sum(m.role == "assistant" for m in rollout.messages[len(rollout.task.messages) :])
    if len(values) != turns:
        return Score.failed("bug", f"turn_values has {len(values)} values for {turns} assistant turns")
    if not all(math.isfinite(value) for value in values):
        return Score.failed("bad_response", f"turn_values holds a number that is not finite: {values}")
    return None

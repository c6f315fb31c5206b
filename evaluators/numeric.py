"""The last number in the answer, compared with a tolerance."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeFloat

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import ends_in_several, number, numbers
from rft.types import Rollout, Score


class Numeric(Evaluator):
    """1 when the last number in the answer is the reference, give or take a tolerance, else 0.

    Right means |answer - reference| <= max(abs_tol, rel_tol * |reference|). Thousands may be grouped: 1,234.
    Numbers in a row with nothing but commas, slashes, spaces, "or" and "and" between them are candidates, not
    an answer: who ends with such a list scores 0, whatever it ends in.

    Cannot see: units, percent signs, fractions ("1/2" is no answer), numbers in words, or why it came last.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        abs_tol: NonNegativeFloat = 1e-6
        rel_tol: NonNegativeFloat = 0.0

    name = "numeric"
    requires = frozenset({"reference"})
    blind_to = frozenset({"negated", "contradiction"})
    cases = (
        Case("2+2?", "2 + 2 = 4.", expect=1.0, reference=4),
        Case("2+2?", "4, which is more than 3", expect=0.0, reference="4"),
        Case("1000+234?", "1,234", expect=1.0, reference="1234"),
        Case("3-5?", "\u22122", expect=1.0, reference=-2),
        Case("10-3?", "10-3", expect=0.0, reference=-3),
        Case("pi?", "3.14", expect=0.0, reference=3.14159),
        Case("pi?", "3.14", expect=1.0, reference=3.14159, config={"rel_tol": 0.01}),
        Case("2+2?", "four", expect=0.0, reference="4"),
        Case("2+2?", "1 2 3 4", expect=0.0, reference="4"),
        Case("2+2?", "3, 5 or 4", expect=0.0, reference="4"),
        Case("2+2?", "3,4", expect=0.0, reference="4"),
        Case("2+2?", "3? 5? It is 4", expect=1.0, reference="4"),
        Case("2+2?", "4", expect="unscored", reference="four"),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        gold = number(rollout.task.reference)
        if gold is None:
            return Score.skip(f"the reference {str(rollout.task.reference)[:40]!r} is not a number")
        found = numbers(rollout.text)
        if not found:
            return Score(0.0, reason="no number in the answer")
        if ends_in_several(rollout.text):
            return Score(0.0, reason="several numbers, no single answer")
        tolerance = max(self.config.abs_tol, self.config.rel_tol * abs(gold))
        right = abs(found[-1] - gold) <= tolerance
        return Score(float(right), reason=f"{found[-1]:g} against {gold:g}")

"""How long the answer is: inside a band, or fading out beyond it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rft.evaluator import Case, Evaluator
from rft.types import Rollout, Score

Unit = Literal["words", "characters", "tokens"]


class Length(Evaluator):
    """1 within [min, max]; below, length / min; above, falling in a line to 0 at twice max.

    Cannot see: anything but length. Alone it teaches padding and cutting; weigh it beside what matters.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        min: int = Field(0, ge=0)
        max: int = Field(100, ge=1)
        unit: Unit = "words"

        @model_validator(mode="after")
        def _ordered(self) -> Length.Config:
            if self.min > self.max:
                raise ValueError(f"min must not be above max, got min={self.min}, max={self.max}")
            return self

    name = "length"
    blind_to = frozenset({"content"})
    cases = (
        Case("Be brief.", "four words are fine", expect=1.0, config={"max": 4}),
        Case("Be brief.", "one two three four five six", expect=0.5, config={"max": 4}),
        Case("Be brief.", "1 2 3 4 5 6 7 8 9", expect=0.0, config={"max": 4}),
        Case("Explain.", "too short", expect=0.5, config={"min": 4}),
        Case("Explain.", "", expect=0.0, config={"min": 4}),
        Case("Be brief.", "abcd", expect=1.0, config={"max": 4, "unit": "characters"}),
        Case("Be brief.", "no tokens known", expect="unscored", config={"unit": "tokens"}),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        count = count_of(rollout, self.config.unit)
        if count is None:
            return Score.skip("the rollout carries no tokens to count; count words instead")
        low, high = self.config.min, self.config.max
        value = count / low if count < low else max(0.0, 1.0 - max(0, count - high) / high)
        return Score(value, reason=f"{count} {self.config.unit}")


def count_of(rollout: Rollout, unit: Unit) -> int | None:
    """The length of the last answer in words or characters, or of the whole rollout in sampled tokens."""
    if unit == "tokens":
        return rollout.num_tokens if rollout.turns else None
    return len(rollout.text.split()) if unit == "words" else len(rollout.text)

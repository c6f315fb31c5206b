"""A soft punishment for answers that come close to the limit, so that the cut does not come as a surprise."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from rft.evaluator import Case, Evaluator
from rft.evaluators.length import Unit, count_of
from rft.types import Rollout, Score


class Overlong(Evaluator):
    """0 up to `max` - `margin`, then falling in a line to -1 at `max` (DAPO, arXiv 2503.14476, equation 13).

    Meant as a part of a `weighted` evaluator, with `max` = rollout.max_new_tokens.
    Cannot see: anything but length.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        max: PositiveInt = 256
        margin: PositiveInt = 64
        unit: Unit = "tokens"

        @model_validator(mode="after")
        def _fits(self) -> Overlong.Config:
            if self.margin > self.max:
                raise ValueError(f"margin must not be above max, got margin={self.margin}, max={self.max}")
            return self

    name = "overlong"
    range = (-1.0, 0.0)
    blind_to = frozenset({"content"})
    cases = (
        Case("?", "1 2 3 4", expect=0.0, config={"max": 8, "margin": 4, "unit": "words"}),
        Case("?", "1 2 3 4 5 6", expect=-0.5, config={"max": 8, "margin": 4, "unit": "words"}),
        Case("?", "1 2 3 4 5 6 7 8", expect=-1.0, config={"max": 8, "margin": 4, "unit": "words"}),
        Case("?", "1 2 3 4 5 6 7 8 9 10", expect=-1.0, config={"max": 8, "margin": 4, "unit": "words"}),
        Case("?", "no tokens known", expect="unscored"),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        count = count_of(rollout, self.config.unit)
        if count is None:
            return Score.skip("the rollout carries no tokens to count; count words instead")
        over = count - (self.config.max - self.config.margin)
        return Score(-min(1.0, max(0.0, over / self.config.margin)), reason=f"{count} {self.config.unit}")

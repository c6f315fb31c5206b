"""What the environment itself gave, for games and simulators that know when they are won."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rft.evaluator import Case, Evaluator
from rft.types import Rollout, Score


class EnvReward(Evaluator):
    """The sum (or the last) of the rewards of a rollout's turns; turns without an opinion are left out.

    An environment that gave no reward at all leaves the sample unscored: no opinion is not zero.
    Cannot see: anything the environment did not pay for.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        take: Literal["sum", "last"] = "sum"

    name = "env_reward"
    range = (-math.inf, math.inf)
    cases = (Case("?", "no environment gave a reward", expect="unscored"),)

    async def evaluate(self, rollout: Rollout) -> float | Score:
        given = [reward for reward in rollout.rewards if reward is not None]
        if not given:
            return Score.skip("the environment gave no reward")
        return math.fsum(given) if self.config.take == "sum" else given[-1]

"""Controls: evaluators that know nothing. A curve that rises under one of these proves nothing."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict, Field

from rft.evaluator import Case, Evaluator
from rft.types import Rollout, Score


class Constant(Evaluator):
    """The same value for everything: groups without variance, so training must not move the model.

    Cannot see: anything.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        value: float = Field(0.5, ge=0.0, le=1.0)

    name = "constant"
    cases = (Case("?", "anything", expect=0.5), Case("?", "", expect=1.0, config={"value": 1.0}))

    async def evaluate(self, rollout: Rollout) -> Score:
        return Score(self.config.value)


class Random(Evaluator):
    """Uniform in [0, 1), drawn from the seed, the rollout's id and its text: no signal, yet repeatable.

    Cannot see: anything.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        seed: int = 0

    name = "random"
    cases = (Case("?", "anything", expect=(0.0, 1.0)),)

    async def evaluate(self, rollout: Rollout) -> Score:
        key = repr((self.config.seed, rollout.id, rollout.text)).encode()
        return Score(int.from_bytes(hashlib.sha256(key).digest()[:6], "big") / 2**48)

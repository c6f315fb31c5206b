"""Several evaluators weighed into one score, without letting a failed one count as zero.

    evaluator:
      use: weighted
      with:
        correct: {use: exact}
        brief: {use: length, with: {max: 20}, weight: 0.2}
        tone: {use: ./tone.py:polite, weight: 0.5, optional: true}

A required part without a number masks the whole sample. An optional part without one is left out, and left
out for the *whole group*, since advantages compare members: an answer must not win because its tone could
not be judged. Each part keeps its own limits, retries and failures. A part that judges whole groups does so
once the group is complete; members that another required part masked are not shown to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from rft.evaluator import Evaluator, Limits, Resolve
from rft.scoring.runner import ScoringRunner
from rft.scoring.settling import in_play, placeholder, waits
from rft.types import Cost, Rollout, Score, Status

_NO_LIMIT = Limits(
    concurrency=1_000_000, timeout_s=math.inf, deadline_s=math.inf, attempts=1, break_after=None
)
_WORST_FIRST: tuple[Status, ...] = ("failed", "skipped", "not_applicable")


@dataclass(frozen=True)
class Part:
    """One evaluator inside a composite. A weight of 0 only reports; a negative one punishes."""

    evaluator: Evaluator
    weight: float = 1.0
    optional: bool = False


class _PartSpec(BaseModel):
    model_config = ConfigDict(extra="forbid")
    use: str
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    weight: float = Field(1.0, allow_inf_nan=False)
    optional: bool = False


_PartSpecs = TypeAdapter(
    dict[str, Annotated[_PartSpec, BeforeValidator(lambda v: {"use": v} if isinstance(v, str) else v)]]
)


class Weighted(Evaluator):
    """The weighted mean of its parts: sum of w_i * v_i over sum of |w_i|.

    Dividing keeps the score within the range of the parts, also when a part is left out.

        Weighted(correct=Exact(), brief=Part(Length(max=20), weight=0.2))
    """

    limits = _NO_LIMIT
    """The parts have theirs; a limit here would cut their retries short."""

    def __init__(self, **parts: Part | Evaluator) -> None:
        super().__init__()
        self.parts = {
            name: Part(part) if isinstance(part, Evaluator) else part for name, part in parts.items()
        }
        if not any(part.weight for part in self.parts.values()):
            raise TypeError("Weighted needs at least one part whose weight is not 0")
        self.requires = frozenset().union(*(part.evaluator.requires for part in self.parts.values()))
        self.deterministic = all(part.evaluator.deterministic for part in self.parts.values())
        ends = [
            end if part.weight > 0 else -end
            for part in self.parts.values()
            if part.weight != 0
            for end in part.evaluator.range
        ]
        self.range = (min(ends), max(ends))
        self._runners: dict[str, ScoringRunner] = {}

    @classmethod
    def from_recipe(cls, options: Mapping[str, Any], resolve: Resolve) -> Weighted:
        """See `Evaluator.from_recipe`. Raises pydantic.ValidationError for a malformed part."""
        specs = _PartSpecs.validate_python(dict(options))
        return cls(**{name: Part(resolve(s.use, s.with_), s.weight, s.optional) for name, s in specs.items()})

    async def setup(self) -> None:
        """Sets up every part."""
        self._runners = {name: ScoringRunner(part.evaluator) for name, part in self.parts.items()}
        for runner in self._runners.values():
            await runner.setup()

    async def evaluate(self, rollout: Rollout) -> Score:
        """Scores all parts at once, then weighs them; waits for its group when some part does."""
        scores = await asyncio.gather(*(runner.score(rollout) for runner in self._runners.values()))
        parts = dict(zip(self._runners, scores, strict=True))
        known = {name: score for name, score in parts.items() if not waits(score)}
        weighed = self._masked(known)
        if weighed is None:
            whole = len(known) == len(parts)
            weighed = self._weigh(parts, left_out=_without_number(parts)) if whole else placeholder()
        return weighed.stamped(parts=parts, cost=_cost(parts))

    async def settle(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> list[Score]:
        """Lets the parts settle, then leaves out, for every member, what some scored member lacks."""
        # To a part, a masked member of the whole is masked too.
        columns = await asyncio.gather(
            *(
                runner.settle(rollouts, [s.parts[name] if in_play(s) else s for s in scores])
                for name, runner in self._runners.items()
            )
        )
        parts_G = [dict(zip(self._runners, row, strict=True)) for row in zip(*columns, strict=True)]
        left_out = {
            name
            for score, parts in zip(scores, parts_G, strict=True)
            if in_play(score) and self._masked(parts) is None
            for name in _without_number(parts)
        }
        return [
            self._settled(score, parts, left_out) if in_play(score) else score
            for score, parts in zip(scores, parts_G, strict=True)
        ]

    async def close(self) -> None:
        """Closes every part."""
        for runner in self._runners.values():
            await runner.close()

    def fingerprint(self) -> str:
        """Changes with any part's fingerprint, weight or role."""
        told = [(name, p.evaluator.fingerprint(), p.weight, p.optional) for name, p in self.parts.items()]
        return hashlib.sha256(repr((super().fingerprint(), told)).encode()).hexdigest()[:16]

    def _masked(self, parts: Mapping[str, Score]) -> Score | None:
        """What the whole is when a required part has no number."""
        for status in _WORST_FIRST:
            for name, score in parts.items():
                if score.status == status and not self.parts[name].optional:
                    return _masked_by(name, score)
        return None

    def _weigh(self, parts: Mapping[str, Score], left_out: Iterable[str]) -> Score:
        counted = {name: part.weight for name, part in self.parts.items() if name not in set(left_out)}
        total = sum(abs(weight) for weight in counted.values())
        if total == 0:
            return Score.skip("no part with a weight could be judged")
        mean = sum(weight * float(parts[name]) for name, weight in counted.items()) / total
        low, high = self.range
        reason = ", ".join(
            f"{name} {float(score):.3g}" if name in counted else f"{name} left out"
            for name, score in parts.items()
        )
        return Score(min(max(mean, low), high), reason=reason)  # rounding may overstep by a last digit

    def _settled(self, score: Score, parts: Mapping[str, Score], left_out: set[str]) -> Score:
        if score.ok and parts == score.parts and left_out == set(_without_number(parts)):
            return score
        new = self._masked(parts) or self._weigh(parts, left_out)
        return score.stamped(
            value=new.value,
            status=new.status,
            reason=new.reason,
            failure=new.failure,
            parts=parts,
            cost=score.cost + _cost(parts) - _cost(score.parts),
        )


def _cost(parts: Mapping[str, Score]) -> Cost:
    return sum((score.cost for score in parts.values()), Cost())


def _without_number(parts: Mapping[str, Score]) -> list[str]:
    return [name for name, score in parts.items() if not score.ok]


def _masked_by(name: str, score: Score) -> Score:
    """The composite's status when a required part has no number: the part's own, saying which part."""
    if score.failure is None:
        return Score(None, score.status, f"{name}: {score.reason or score.status}")
    failure = replace(score.failure, detail=f"{name}: {score.failure.detail}", retryable=False)
    return Score(None, "failed", failure.detail, failure=failure)

"""What composites share: parts that run beside each other, and a group that is settled part by part.

A required part without a number masks the whole sample. A part that judges whole groups does so once the
group is complete; members that another required part masked are not shown to it. Each part keeps its own
limits, retries and failures.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from rft.evaluator import Evaluator, GroupEvaluator, Limits, Resolve
from rft.scoring.runner import ScoringRunner
from rft.scoring.settling import in_play, placeholder, waits
from rft.types import Cost, Rollout, Score, Status

Parts = Mapping[str, Score]
"""The scores of one rollout by part; parts that were not asked are missing."""

_NO_LIMIT = Limits(
    concurrency=1_000_000, timeout_s=math.inf, deadline_s=math.inf, attempts=1, break_after=None
)
_WORST_FIRST: tuple[Status, ...] = ("failed", "skipped", "not_applicable")
_NOT_ASKED = Score(None, "not_applicable", "not asked")


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


class Composite(Evaluator):
    """An evaluator made of others. Subclasses say how their scores become one, in `combine`."""

    limits = _NO_LIMIT
    """The parts have theirs; a limit here would cut their retries short."""
    relative: ClassVar[bool] = False
    """Whether `combine` compares the members of a group, so that one alone has no score."""

    def __init__(self, parts: Mapping[str, Part | Evaluator], **config: Any) -> None:
        super().__init__(**config)
        if not parts:
            raise TypeError(f"{self.name} needs at least one part")
        self.parts = {
            name: Part(part) if isinstance(part, Evaluator) else part for name, part in parts.items()
        }
        self.requires = frozenset().union(*(part.evaluator.requires for part in self.parts.values()))
        self.deterministic = all(part.evaluator.deterministic for part in self.parts.values())
        self._runners: dict[str, ScoringRunner] = {}

    @classmethod
    def from_recipe(cls, options: Mapping[str, Any], resolve: Resolve) -> Self:
        """See `Evaluator.from_recipe`. Raises pydantic.ValidationError for a malformed part."""
        parts: Any = parts_of(options, resolve)
        return cls(**parts)

    async def setup(self) -> None:
        """Sets up every part."""
        self._runners = {name: ScoringRunner(part.evaluator) for name, part in self.parts.items()}
        for runner in self._runners.values():
            await runner.setup()

    async def close(self) -> None:
        """Closes every part."""
        for runner in self._runners.values():
            await runner.close()

    async def evaluate(self, rollout: Rollout) -> Score:
        """The parts' scores combined; a placeholder when that takes the whole group."""
        parts = await self.ask(rollout)
        score = self.masked({name: part for name, part in parts.items() if not waits(part)})
        if score is None:
            later = self.relative or any(map(waits, parts.values()))
            score = placeholder() if later else self.combine([parts])[0]
        return score.stamped(parts=parts, cost=_cost(parts))

    async def settle(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> list[Score]:
        """Lets the parts settle, then combines the scores of all members that are not masked."""
        # To a part, a masked member of the whole is masked too.
        columns = await asyncio.gather(
            *(
                runner.settle(rollouts, [s.parts.get(name, _NOT_ASKED) if in_play(s) else s for s in scores])
                for name, runner in self._runners.items()
            )
        )
        rows = [dict(zip(self._runners, row, strict=True)) for row in zip(*columns, strict=True)]
        parts_by_member = {
            i: {name: row[name] for name in score.parts}
            for i, (score, row) in enumerate(zip(scores, rows, strict=True))
            if in_play(score)
        }
        playing = [i for i, parts in parts_by_member.items() if self.masked(parts) is None]
        combined = dict(zip(playing, self.combine([parts_by_member[i] for i in playing]), strict=True))
        settled = list(scores)
        for i, parts in parts_by_member.items():
            settled[i] = _settled(scores[i], combined.get(i) or self.masked(parts), parts)
        return settled

    async def ask(self, rollout: Rollout) -> dict[str, Score]:
        """The scores of the parts that are asked: all of them, at once."""
        scores = await asyncio.gather(*(runner.score(rollout) for runner in self._runners.values()))
        return dict(zip(self._runners, scores, strict=True))

    def masked(self, parts: Parts) -> Score | None:
        """What the whole is when a required part has no number; None when it has one."""
        for status in _WORST_FIRST:
            for name, score in parts.items():
                if score.status == status and not self.parts[name].optional:
                    return masked_by(name, score)
        return None

    @abstractmethod
    def combine(self, parts_G: Sequence[Parts]) -> list[Score]:
        """One score for each member of a group, comparable, from the scores of its parts.

        No member is `masked`. Before its group is complete, a member may come alone.
        """

    def fingerprint(self) -> str:
        """Changes with any part's fingerprint, weight or role."""
        told = [(name, p.evaluator.fingerprint(), p.weight, p.optional) for name, p in self.parts.items()]
        return hashlib.sha256(repr((super().fingerprint(), told)).encode()).hexdigest()[:16]


def takes_group(evaluator: Evaluator) -> bool:
    """Whether it has no score for one rollout before its group is complete."""
    if isinstance(evaluator, Composite):
        return evaluator.relative or any(takes_group(part.evaluator) for part in evaluator.parts.values())
    return isinstance(evaluator, GroupEvaluator)


def parts_of(options: Mapping[str, Any], resolve: Resolve) -> dict[str, Part]:
    """The parts that a recipe's `with:` block names. Raises pydantic.ValidationError."""
    specs = _PartSpecs.validate_python(dict(options))
    return {name: Part(resolve(s.use, s.with_), s.weight, s.optional) for name, s in specs.items()}


def left_out(parts_G: Iterable[Parts]) -> set[str]:
    """Parts that some member has no number for, so that they may count for none."""
    return {name for parts in parts_G for name, score in parts.items() if not score.ok}


def turns_together(parts: Parts, weights: Mapping[str, float]) -> tuple[float, ...] | None:
    """The weighted sum of the parts' values for turns; None where no part that counts has any.

    A part without values earns nothing before the end: its share of the score stays with the last turn.
    """
    given = [(weight, parts[name].turn_values) for name, weight in weights.items() if weight]
    known = [[weight * value for value in values] for weight, values in given if values is not None]
    # A rollout has one number of turns, and every part's values are checked against it.
    return tuple(map(sum, zip(*known, strict=True))) if known else None


def masked_by(name: str, score: Score) -> Score:
    """The composite's status when a required part has no number: the part's own, saying which part."""
    if score.failure is None:
        return Score(None, score.status, f"{name}: {score.reason or score.status}")
    failure = replace(score.failure, detail=f"{name}: {score.failure.detail}", retryable=False)
    return Score(None, "failed", failure.detail, failure=failure)


def _settled(before: Score, now: Score | None, parts: Parts) -> Score:
    assert now is not None  # either combined or masked
    after = before.stamped(
        value=now.value,
        status=now.status,
        reason=now.reason,
        turn_values=now.turn_values,
        metrics=now.metrics,
        failure=now.failure,
        parts=parts,
        cost=before.cost + _cost(parts) - _cost(before.parts),
    )
    return before if after == before else after


def _cost(parts: Parts) -> Cost:
    return sum((score.cost for score in parts.values()), Cost())

"""Composites that do not ask every part: a gate before a dear evaluator, and a cheap one before it.

    evaluator:
      use: gate
      with:
        check: {use: json_schema, with: {schema: {...}}}
        then: {use: judge, with: {...}}
        otherwise: 0.0

What is not asked costs nothing and cannot fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, FiniteFloat

from rft.evaluator import Evaluator, Resolve
from rft.scoring.composite import Composite, Part, Parts, masked_by, parts_of, takes_group
from rft.types import Rollout, Score


class Gate(Composite):
    """What `then` says where `check` scores at least `at_least`; elsewhere `otherwise`.

    A `then` that judges whole groups sees only the members that pass. Without a number from `check`, or from
    `then` where it is asked, the sample is masked.

        Gate(check=JSONSchema(schema=...), then=Judge(), otherwise=0.0)
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        otherwise: FiniteFloat = 0.0
        """The score of those that do not pass."""
        at_least: FiniteFloat = 1.0
        """What `check` must give to pass."""

    def __init__(self, *, check: Part | Evaluator, then: Part | Evaluator, **config: Any) -> None:
        super().__init__({"check": check, "then": then}, **config)
        _plain_parts(self)
        _alone(self, ["check"])
        low, high = self.parts["then"].evaluator.range
        self.range = (min(low, self.config.otherwise), max(high, self.config.otherwise))

    @classmethod
    def from_recipe(cls, options: Mapping[str, Any], resolve: Resolve) -> Self:
        """See `Evaluator.from_recipe`. Raises pydantic.ValidationError for a malformed part."""
        own = {name: value for name, value in options.items() if name in cls.Config.model_fields}
        parts: Any = parts_of({name: options[name] for name in options if name not in own}, resolve)
        return cls(**parts, **own)

    async def ask(self, rollout: Rollout) -> dict[str, Score]:
        """The check's score and, where it passes, the other's."""
        parts = {"check": await self._runners["check"].score(rollout)}
        if parts["check"].ok and float(parts["check"]) >= self.config.at_least:
            parts["then"] = await self._runners["then"].score(rollout)
        return parts

    def combine(self, parts_G: Sequence[Parts]) -> list[Score]:
        """What `then` says, or `otherwise`."""
        return [self._one(parts) for parts in parts_G]

    def _one(self, parts: Parts) -> Score:
        if "then" in parts:
            then = parts["then"]
            return Score(float(then), reason=then.reason, turn_values=then.turn_values)
        check = parts["check"]
        told = f"check {float(check):.3g} is below {self.config.at_least:g}"
        return Score(self.config.otherwise, reason=f"{told}: {check.reason}" if check.reason else told)


class First(Composite):
    """The first of its parts that gives full marks; where none does, what the last one says.

    A cheap evaluator that is sure when it says yes stands before a dear one that also sees what the cheap one
    misses. A part that skips a sample leaves it to the others; one that fails masks it.

        First(exact=Exact(), judge=Judge())
    """

    def __init__(self, **parts: Part | Evaluator) -> None:
        super().__init__(parts)
        _plain_parts(self)
        *earlier, _last = self.parts
        _alone(self, earlier)
        ranges = [part.evaluator.range for part in self.parts.values()]
        self.range = (min(low for low, _ in ranges), max(high for _, high in ranges))

    async def ask(self, rollout: Rollout) -> dict[str, Score]:
        """The scores of the parts, one after the other, until one decides."""
        parts: dict[str, Score] = {}
        for name, runner in self._runners.items():
            parts[name] = score = await runner.score(rollout)
            full_marks = score.ok and float(score) >= self.parts[name].evaluator.range[1]
            if full_marks or score.status == "failed":
                break
        return parts

    def masked(self, parts: Parts) -> Score | None:
        """See `Composite.masked`; here a part that only skips does not mask."""
        failed = [masked_by(name, score) for name, score in parts.items() if score.status == "failed"]
        return failed[0] if failed else None

    def combine(self, parts_G: Sequence[Parts]) -> list[Score]:
        """What the last part says that was asked and has a number."""
        return [self._one(parts) for parts in parts_G]

    def _one(self, parts: Parts) -> Score:
        for name, score in reversed(list(parts.items())):
            if score.ok:
                told = f"{name}: {score.reason or f'{float(score):.3g}'}"
                return Score(float(score), reason=told, turn_values=score.turn_values)
        return Score.skip("no part could judge it")


def _plain_parts(composite: Composite) -> None:
    for name, part in composite.parts.items():
        if part.weight != 1.0 or part.optional:
            raise TypeError(f"{composite.name}: {name} can have no weight and cannot be optional")


def _alone(composite: Composite, names: Sequence[str]) -> None:
    for name in names:
        if takes_group(composite.parts[name].evaluator):
            raise TypeError(f"{composite.name}: {name} compares answers; only the last part can")

"""Scores a run's stored rollouts again, with the evaluator as it is now: which answers change sides?

What trains a model is not a score but its advantage, so that is what is compared, by the trainer's own code:
an answer whose advantage changes its sign would have been pushed the other way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rft import background
from rft.check.findings import quoted
from rft.errors import DataError, RunError
from rft.evaluator import Evaluator
from rft.notebook.preview import advantages
from rft.recipe.load import load_recipe
from rft.recipe.schema import Recipe
from rft.runs.folder import RunFolder
from rft.runs.stored import read_groups
from rft.scoring.runner import ScoringRunner
from rft.types import Group, Rollout, Score

_SHOWN = 20


@dataclass(frozen=True)
class Change:
    """One rollout under both evaluators. An advantage is None where the rollout is left out of the update.

    >>> Change("t/0", "t", "4", 0.0, 1.0, -0.7, 1.2, None).flips
    True
    """

    rollout: str
    task: str
    text: str
    old_score: float | None
    new_score: float | None
    old_advantage: float | None
    new_advantage: float | None
    reason: str | None

    @property
    def flips(self) -> bool:
        """Whether it would be pushed the other way, or only one of them pushes it at all."""
        return _sign(self.old_advantage) != _sign(self.new_advantage)


@dataclass(frozen=True)
class Replay:
    """The result of `rft evaluator replay`."""

    run: str
    evaluator: str
    fingerprint: str
    changes: Sequence[Change]
    """Every rollout, in stored order."""

    @property
    def flipped(self) -> list[Change]:
        """Those that change sides, the largest move first."""
        moved = [change for change in self.changes if change.flips]
        return sorted(moved, key=lambda one: -abs((one.new_advantage or 0.0) - (one.old_advantage or 0.0)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": self.run,
            "evaluator": self.evaluator,
            "fingerprint": self.fingerprint,
            "rollouts": len(self.changes),
            "rescored_differently": sum(one.old_score != one.new_score for one in self.changes),
            "flipped": [vars(one) for one in self.flipped],
        }

    def __rich__(self) -> RenderableType:
        flipped = self.flipped
        head = Text(
            f"{len(flipped)} of {len(self.changes)} advantages change sign under {self.evaluator} "
            f"({self.fingerprint})"
        )
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("rollout", "answer", "score", "advantage", "reason now"):
            table.add_column(column, overflow="fold")
        for one in flipped[:_SHOWN]:
            table.add_row(
                Text(one.rollout),
                Text(quoted(one.text, 40)),
                f"{_shown(one.old_score)} -> {_shown(one.new_score)}",
                f"{_shown(one.old_advantage)} -> {_shown(one.new_advantage)}",
                Text(one.reason or ""),
            )
        more = [Text(f"and {len(flipped) - _SHOWN} more; --json shows all")] if len(flipped) > _SHOWN else []
        return Lines(head, *([table] if flipped else []), *more)


def replay(run: RunFolder, evaluator: Evaluator, *, last_steps: int | None = None) -> Replay:
    """Scores the training rollouts of a run again.

    Args:
        last_steps: only the newest so many steps.

    Raises RunError for a run without rollouts, DataError when the stored tasks lack what the evaluator reads.
    """
    recipe = load_recipe(run.recipe_path)
    old = stored_groups(run, last_steps=last_steps)
    _require_fields(old, evaluator)

    async def rescored() -> list[Group]:
        async with ScoringRunner(evaluator) as runner:
            return [await _score_again(runner, group) for group in old]

    new = background.run(rescored())
    was, now = (_advantages(groups, recipe) for groups in (old, new))
    changes = [
        Change(
            rollout=rollout.id,
            task=rollout.task.id,
            text=rollout.text,
            old_score=before.value,
            new_score=after.value,
            old_advantage=a,
            new_advantage=b,
            reason=after.reason if after.ok else after.explain(),
        )
        for rollout, before, after, a, b in zip(
            [rollout for group in old for rollout in group.rollouts],
            [score for group in old for score in group.scores],
            [score for group in new for score in group.scores],
            was,
            now,
            strict=True,
        )
    ]
    return Replay(str(run.path), evaluator.name, evaluator.fingerprint(), changes)


def stored_groups(run: RunFolder, *, last_steps: int | None = None) -> list[Group]:
    """A run's training groups with the scores they had. Raises RunError when there are none."""
    files = run.rollout_files()
    groups = [
        _of_step(int(path.stem.rpartition("-")[2]), group)
        for path in files[-last_steps if last_steps else 0 :]
        for group in read_groups(path)
    ]
    if not groups:
        raise RunError(f"run {run.id} has stored no training rollouts yet")
    return groups


def _of_step(step: int, group: Group) -> Group:
    """A group's id is the same in every step; with the step before it, steps do not mix."""
    group_id = f"{step}/{group.id}"
    rollouts = [replace(one, id=f"{step}/{one.id}", group_id=group_id) for one in group.rollouts]
    return replace(group, id=group_id, rollouts=rollouts)


def _require_fields(groups: Sequence[Group], evaluator: Evaluator) -> None:
    for group in groups:
        have = {**group.task.metadata, "reference": group.task.reference}
        lacking = sorted(name for name in evaluator.requires if have.get(name) is None)
        if lacking:
            raise DataError(
                f"evaluator {evaluator.name} reads {lacking[0]!r}, which the run's task {group.task.id} "
                f"does not have; it has {', '.join(sorted(have))}"
            )


async def _score_again(runner: ScoringRunner, group: Group) -> Group:
    async def one(rollout: Rollout, old: Score) -> Score:
        # Without a turn the model never spoke: its environment failed, and there is nothing to judge.
        return await runner.score(rollout) if rollout.turns else old

    scores = await asyncio.gather(*map(one, group.rollouts, group.scores))
    return replace(group, scores=await runner.settle(group.rollouts, scores))


def _advantages(groups: Sequence[Group], recipe: Recipe) -> list[float | None]:
    """What each rollout would be pushed by; None for those left out of the update."""
    return [value for step in _steps(groups) for values in advantages(step, recipe) for value in values]


def _steps(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups by step: advantages may be scaled by a whole step's rewards."""
    return [list(members) for _, members in groupby(groups, key=lambda group: group.id.partition("/")[0])]


def _sign(advantage: float | None) -> int | None:
    return None if advantage is None else (advantage > 0) - (advantage < 0)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:+.3g}"

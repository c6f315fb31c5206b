"""Scores a run's stored rollouts again, with the evaluator as it is now: which answers change sides?

What trains a model is not a score but its advantage, so that is what is compared, by the trainer's own code:
an answer whose advantage changes its sign would have been pushed the other way.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rft import background
from rft.check.findings import quoted
from rft.data.source import load_tasks
from rft.errors import DataError, RunError
from rft.evaluator import Evaluator
from rft.recipe.load import load_recipe
from rft.recipe.schema import Recipe
from rft.runs.folder import RunFolder
from rft.runs.rollouts import read_rollouts
from rft.scoring.runner import ScoringRunner
from rft.types import FailureKind, Group, Message, Rollout, Score, Task, Turn

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
    old = stored_groups(run, recipe, last_steps=last_steps)
    _require_fields(old, evaluator)

    async def rescored() -> list[Group]:
        async with ScoringRunner(evaluator) as runner:
            return [await _score_again(runner, group) for group in old]

    new = background.run(rescored())
    was, now = ([one for step in _steps(groups) for one in advantages(step, recipe)] for groups in (old, new))
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


def advantages(groups: Sequence[Group], recipe: Recipe) -> list[float | None]:
    """What each rollout of one step would be pushed by; None for those left out of the update."""
    # torch, which nothing else here needs
    from rft.learn.advantage import group_advantages
    from rft.learn.batch import to_batch

    batch = to_batch(
        groups, mask_truncated=recipe.rollout.truncated == "mask", min_valid=recipe.rollout.min_valid
    )
    pushed = group_advantages(batch.rewards_S, batch.group_S, recipe.algorithm.scale_rewards).tolist()
    by_id = dict(zip([sequence.rollout_id for sequence in batch.sequences], pushed, strict=True))
    return [by_id.get(rollout.id) for group in groups for rollout in group.rollouts]


def stored_groups(run: RunFolder, recipe: Recipe, *, last_steps: int | None = None) -> list[Group]:
    """A run's training groups with the scores they had. Task fields come from the recipe's data, by task id.

    Raises RunError when there are none.
    """
    files = run.rollout_files()
    rows = [row for path in files[-last_steps if last_steps else 0 :] for row in read_rollouts(path)]
    if not rows:
        raise RunError(f"run {run.id} has stored no training rollouts yet")
    tasks = _tasks(recipe)
    groups = []
    for _, members in groupby(rows, key=lambda row: (row["step"], row["group_id"])):
        stored = list(members)
        rollouts = [_rollout(row, tasks.get(row["task_id"])) for row in stored]
        groups.append(
            Group(rollouts[0].group_id, rollouts[0].task, rollouts, [_score(row) for row in stored])
        )
    return groups


def _tasks(recipe: Recipe) -> Mapping[str, Task]:
    """The recipe's tasks by id, as far as they can still be read."""
    try:
        return {task.id: task for task in load_tasks(recipe.data.train, seed=recipe.seed)}
    except DataError:
        return {}


def _rollout(row: Mapping[str, Any], task: Task | None) -> Rollout:
    messages = tuple(Message.from_dict(one) for one in json.loads(row["messages"]))
    task = task or Task(row["task_id"], _prompt(row["prompt"]), json.loads(row["reference"]))
    # A group's id is the same in every step; with the step before it, steps do not mix.
    group_id = f"{row['step']}/{row['group_id']}"
    return Rollout(
        id=f"{row['step']}/{row['rollout_id']}",
        group_id=group_id,
        task=task,
        messages=messages,
        turns=_turns(row),
        stop=row["stop"],
        weight_version=row["weight_version"],
        seed=row["seed"],
    )


def _prompt(stored: str) -> str | tuple[Message, ...]:
    """A chat is stored as JSON, a plain prompt as it is."""
    try:
        return tuple(Message.from_dict(one) for one in json.loads(stored))
    except (ValueError, TypeError, KeyError):
        return stored


def _turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Turns from the one sequence that is stored: what was shown, then what was sampled, again and again."""
    turns = []
    context: tuple[int, ...] = ()
    triples = zip(row["token_ids"], row["sampled"], row["logprobs"], strict=True)
    for sampled, members in groupby(triples, key=lambda one: one[1]):
        tokens, _, logprobs = zip(*members, strict=True)
        if sampled:
            turns.append(Turn(context, tokens, logprobs, "stop"))
            context = ()
        else:
            context = tokens
    return tuple(turns)


def _score(row: Mapping[str, Any]) -> Score:
    if row["status"] == "failed":
        kind: FailureKind = row["failure_kind"]
        return Score.failed(kind, row["reason"] or "")
    return Score(row["reward"], row["status"], row["reason"])


def _require_fields(groups: Sequence[Group], evaluator: Evaluator) -> None:
    for group in groups:
        have = {**group.task.metadata, "reference": group.task.reference}
        lacking = sorted(name for name in evaluator.requires if have.get(name) is None)
        if lacking:
            raise DataError(
                f"evaluator {evaluator.name} reads {lacking[0]!r}, which is neither stored for task "
                f"{group.task.id} nor in the recipe's data any more"
            )


async def _score_again(runner: ScoringRunner, group: Group) -> Group:
    async def one(rollout: Rollout, old: Score) -> Score:
        # Without a turn the model never spoke: its environment failed, and there is nothing to judge.
        return await runner.score(rollout) if rollout.turns else old

    scores = await asyncio.gather(*map(one, group.rollouts, group.scores))
    return replace(group, scores=await runner.settle(group.rollouts, scores))


def _steps(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups by step: advantages may be scaled by a whole step's rewards."""
    return [list(members) for _, members in groupby(groups, key=lambda group: group.id.partition("/")[0])]


def _sign(advantage: float | None) -> int | None:
    return None if advantage is None else (advantage > 0) - (advantage < 0)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:+.3g}"

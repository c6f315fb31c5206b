"""What an evaluator would do to a model: its verdict on each answer, and where training would push it.

The advantages are those of training: who is left out is decided by `rft.learn.batch`, credit by
`rft.learn.credit`, and nothing is computed a second way. Both need torch; without it scores and reasons
are shown and advantages are not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rft.errors import UserError
from rft.evaluator import Evaluator
from rft.recipe.schema import AlgorithmSpec, Recipe, RolloutSpec
from rft.scoring.groups import score_groups
from rft.types import Group, Rollout, Score, Turn

if TYPE_CHECKING:
    from rich.console import RenderableType

Push = Literal["up", "down", "none", "masked", "unknown"]
"""Where training moves an answer's probability. none: its score is its group's mean, as when all are equal.
masked: it is left out. unknown: torch is not installed."""

NO_TORCH = (
    "Advantages are not shown: training's own code computes them, and it needs torch "
    "(pip install 'rft-loop[cpu]', or [gpu])."
)


@dataclass(frozen=True)
class Row:
    """One answer under one evaluator.

    >>> from rft import Message, Task
    >>> ask = Task("t", (Message("user", "2+2?"),))
    >>> Row(Rollout("t/0", "t", ask, ask.messages), Score(1.0), 0.7).push
    'up'
    """

    rollout: Rollout
    score: Score
    advantage: float | None
    """None when it is left out of training, or unknown."""
    masked: str | None = None
    """Why it is left out."""

    @property
    def push(self) -> Push:
        """Where training moves it."""
        if self.masked is not None:
            return "masked"
        if self.advantage is None:
            return "unknown"
        return "up" if self.advantage > 0 else "down" if self.advantage < 0 else "none"


class _Shown:
    """Shows itself in a notebook as HTML and anywhere else as text."""

    def _repr_html_(self) -> str:
        from rft.notebook.html import page

        return page(self)

    def __rich__(self) -> RenderableType:
        from rft.notebook.text import lines

        return lines(self)

    def __repr__(self) -> str:
        from rft.notebook.text import as_text

        return as_text(self)


@dataclass(frozen=True, repr=False)
class Preview(_Shown):
    """An evaluator's verdicts on groups of answers."""

    evaluator: str
    groups: Sequence[Sequence[Row]]
    """By prompt."""
    note: str | None = None

    @property
    def rows(self) -> list[Row]:
        """All of them, group by group."""
        return [row for group in self.groups for row in group]


@dataclass(frozen=True, repr=False)
class Diff(_Shown):
    """Two verdicts on the same answers, and those whose push changes."""

    old: Preview
    new: Preview

    @property
    def changed(self) -> list[tuple[Row, Row]]:
        """Pairs (old, new) of the answers that would be pushed another way, or masked, or no longer."""
        return [pair for pair in self._pairs() if pair[0].push != pair[1].push]

    @property
    def rescored(self) -> int:
        """Answers with another score, whichever way they are pushed."""
        return sum(before.score.value != after.score.value for before, after in self._pairs())

    def _pairs(self) -> Iterator[tuple[Row, Row]]:
        return zip(self.old.rows, self.new.rows, strict=True)


def preview(
    evaluator: Evaluator | Callable[..., Any], rollouts: Sequence[Rollout], *, recipe: Recipe | None = None
) -> Preview:
    """Scores rollouts and says what training would do with each.

    Args:
        evaluator: an evaluator, or a plain function whose arguments are injected by name.
        rollouts: answers, several to a prompt; those of one prompt share their `group_id`.
        recipe: whose settings decide (`algorithm.scale_rewards`, `rollout.truncated`, `rollout.min_valid`);
            the defaults when left out.

    Raises UserError for an evaluator that cannot be run.
    """
    if not rollouts:
        raise UserError("there are no rollouts to score; `sample` makes some, `load_rollouts` reads a run's")
    name = getattr(evaluator, "name", "") or getattr(evaluator, "__name__", type(evaluator).__name__)
    made = evaluator if isinstance(evaluator, Evaluator) else None
    return weighed(name, score_groups(evaluator, rollouts), recipe, made)


def diff(
    old: Evaluator | Callable[..., Any],
    new: Evaluator | Callable[..., Any],
    rollouts: Sequence[Rollout],
    *,
    recipe: Recipe | None = None,
) -> Diff:
    """What changes for these rollouts when `new` takes the place of `old`. Arguments as for `preview`."""
    return Diff(preview(old, rollouts, recipe=recipe), preview(new, rollouts, recipe=recipe))


def weighed(
    name: str, groups: Sequence[Group], recipe: Recipe | None = None, evaluator: Evaluator | None = None
) -> Preview:
    """Scored groups with the advantages that training would give their members.

    Args:
        name: the evaluator's.
        evaluator: itself, for credit that takes weights from it.
    """
    if importlib.util.find_spec("torch") is None:
        rows = [
            [
                Row(r, s, None, None if s.ok else s.explain())
                for r, s in zip(group.rollouts, group.scores, strict=True)
            ]
            for group in groups
        ]
        return Preview(name, rows, NO_TORCH)
    sampling = recipe.rollout if recipe else RolloutSpec()
    rows = [
        [
            Row(rollout, score, advantage, _left_out(rollout, score, sampling) if advantage is None else None)
            for rollout, score, advantage in zip(group.rollouts, group.scores, advantages_G, strict=True)
        ]
        for group, advantages_G in zip(groups, advantages(groups, recipe, evaluator), strict=True)
    ]
    return Preview(name, rows)


def advantages(
    groups: Sequence[Group], recipe: Recipe | None = None, evaluator: Evaluator | None = None
) -> list[list[float | None]]:
    """What training would give each member if these groups were one step's batch; None for one left out.

    One number for each answer: credit by turns and a KL penalty are left aside, and so is PPO's critic, in
    whose place answers are compared with each other. Needs torch.
    """
    from rft.formulas import credit_of
    from rft.learn.batch import to_batch
    from rft.learn.credit import assign_credit

    sampling = recipe.rollout if recipe else RolloutSpec()
    algorithm = (recipe.algorithm if recipe else AlgorithmSpec()).model_copy(
        update={"turn_credit": "rollout", "beta": 0.0}
    )
    if algorithm.kind == "ppo":
        algorithm = algorithm.model_copy(update={"kind": "grpo"})
    batch = to_batch(
        [_with_tokens(group) for group in groups],
        mask_truncated=sampling.truncated == "mask",
        min_valid=sampling.min_valid,
        min_members=algorithm.min_members,
    )
    batch = assign_credit(batch, algorithm, credit_of(algorithm, evaluator))
    # All tokens of an answer have the same, unless credit of one's own tells them apart; then their first's.
    by_member = {one.rollout_id: batch.advantages_N[one.start].item() for one in batch.sequences}
    return [[by_member.get(name) for name in _names(group)] for group in groups]


def _with_tokens(group: Group) -> Group:
    """The group with a token where a rollout has none, and its members named apart."""
    token = Turn(context_ids=(0,), token_ids=(0,), logprobs=(0.0,), finish_reason="stop")
    rollouts = [
        replace(rollout, id=name, rewards=(), turns=rollout.turns if rollout.num_tokens else (token,))
        for name, rollout in zip(_names(group), group.rollouts, strict=True)
    ]
    return replace(
        group, rollouts=rollouts, scores=[score.stamped(turn_values=None) for score in group.scores]
    )


def _names(group: Group) -> list[str]:
    return [f"{id(group)}/{index}" for index in range(len(group.rollouts))]


def _without_advantages(group: Group) -> list[Row]:
    return [
        Row(rollout, score, None, None if score.ok else score.explain())
        for rollout, score in zip(group.rollouts, group.scores, strict=True)
    ]


def _left_out(rollout: Rollout, score: Score, sampling: RolloutSpec) -> str:
    if not score.ok:
        return score.explain()
    if rollout.truncated and sampling.truncated == "mask":
        return "cut by a limit (rollout.truncated: mask)"
    return "too few answers of its group are left to compare it with"

"""What stands on the bench: an evaluator, a way to score, and everything it is tried on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rft.check.answers import FORMS, Answer, forms_of, from_cases, from_references, rollout, written_as
from rft.check.findings import DEFAULTS, Thresholds
from rft.check.probes import CONTENT
from rft.evaluator import Evaluator, GroupEvaluator, own_cases
from rft.types import Rollout, Score, Task

Scorer = Callable[[Evaluator, Sequence[Rollout]], Awaitable[list[Score]]]
"""Scores rollouts as training would, each group settled once it is whole; nothing from a cache."""

MOST_TASKS = 16
"""Tasks from data that a stage tries; a live judge is paid for each."""


@dataclass(frozen=True)
class Plan:
    """The run that the check is for.

    >>> Plan(prompts_per_step=8, group_size=8, steps=100).rollouts
    6400
    """

    prompts_per_step: int
    group_size: int
    steps: int
    rollouts_per_s: float | None = None
    """How fast the policy was sampled here; None when it was not."""

    @property
    def rollouts(self) -> int:
        """In the whole run, held-out ones not counted."""
        return self.prompts_per_step * self.group_size * self.steps


@dataclass(frozen=True)
class Label:
    """What a person thought of an answer.

    >>> Label(Task("t", "2+2?"), "4", value=1.0, rater="ann").value
    1.0
    """

    task: Task
    text: str
    value: float
    rater: str = ""


@dataclass
class Bench:
    """One evaluator and everything it is tried on."""

    evaluator: Evaluator
    scorer: Scorer
    tasks: Sequence[Task] = ()
    """The recipe's tasks, if there is a recipe."""
    rollouts: Sequence[Rollout] = ()
    """Finished rollouts of a real model, whole groups."""
    labels: Sequence[Label] = ()
    plan: Plan | None = None
    controls: Mapping[str, Mapping[str, float]] | None = None
    """Held-out score by task after some steps of training with each of `evaluator`, `random`, `constant`."""
    thresholds: Thresholds = DEFAULTS
    seed: int = 0
    seen: list[Score] = field(default_factory=list)
    """Every score of the evaluator under check, for latency and cost."""
    _answers: list[Answer] | None = None
    _scored: list[tuple[Rollout, Score]] | None = None

    async def score(self, evaluator: Evaluator, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores of rollouts, in order. See `Scorer`."""
        scores = await self.scorer(evaluator, rollouts)
        if evaluator is self.evaluator:
            self.seen += scores
        return scores

    async def scored(self) -> list[tuple[Rollout, Score]]:
        """The real model's rollouts with their scores."""
        if self._scored is None:
            scores = await self.score(self.evaluator, self.rollouts)
            self._scored = list(zip(self.rollouts, scores, strict=True))
        return self._scored

    @property
    def grouped(self) -> bool:
        """Whether answers are judged against each other, so that one alone has no score."""
        return _compares(self.evaluator)

    @property
    def blind_to(self) -> frozenset[str]:
        """Probes that the evaluator says it cannot see through; "content": it looks at form alone."""
        return _blind_to(self.evaluator)

    async def judge(self, answers: Sequence[tuple[Task, str]]) -> list[Score]:
        """Scores of texts as answers to tasks; answers to the same task form a group."""
        return await self.score(
            self.evaluator, [rollout(task, text, i) for i, (task, text) in enumerate(answers)]
        )

    async def answers(self) -> list[Answer]:
        """Good and bad answers: those of golden cases, then those made from references."""
        if self._answers is None:
            golden = from_cases(own_cases(self.evaluator), self.evaluator.range)
            tasks = [task for task in self.tasks if task.reference is not None][:MOST_TASKS]
            form = await self._form(tasks)
            self._answers = golden + from_references(tasks, form, self.seed)
        return self._answers

    async def good_answers(self) -> list[Answer]:
        """One good answer a task."""
        first: dict[str, Answer] = {}
        for answer in await self.answers():
            if answer.good:
                first.setdefault(answer.task.id, answer)
        return list(first.values())[:MOST_TASKS]

    async def _form(self, tasks: Sequence[Task]) -> Callable[[Any], str]:
        """How this evaluator wants a reference written: the first form that pays in full, or the best."""
        few = list(tasks)[:4]
        # A form that earns the least there is is no better than the plain reference, whatever that got.
        best, best_mean = written_as("{}"), self.evaluator.range[0]
        for form in [*forms_of(own_cases(self.evaluator)), *FORMS] if few else ():
            write = written_as(form)
            scores = await self.judge([(task, write(task.reference)) for task in few])
            values = [float(score) for score in scores if score.ok]
            mean = float(np.mean(values)) if values else float("-inf")
            if mean > best_mean:
                best, best_mean = write, mean
            if best_mean >= self.evaluator.range[1]:
                break
        return best


def _blind_to(evaluator: Evaluator) -> frozenset[str]:
    """Of a composite, what none of the parts that count can see."""
    parts = [part for part in getattr(evaluator, "parts", {}).values() if part.weight]
    if not parts:
        return evaluator.blind_to
    blind = [_blind_to(part.evaluator) for part in parts]
    looking = [names for names in blind if CONTENT not in names]
    return frozenset.intersection(*looking) if looking else frozenset({CONTENT})


def _compares(evaluator: Evaluator) -> bool:
    parts = getattr(evaluator, "parts", {})  # a composite is as its parts are
    return isinstance(evaluator, GroupEvaluator) or any(_compares(part.evaluator) for part in parts.values())

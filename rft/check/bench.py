"""What stands on the bench: an evaluator, a way to score, and answers of known worth to try it on.

Answers come from two places. Golden cases say themselves what they are worth. From a data set's references
good answers are made by writing the reference down, in the form that this evaluator pays best for, and bad
ones by spoiling it; so a data set is enough to test an evaluator that has no cases yet.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rft.check.findings import DEFAULTS, Thresholds
from rft.check.probes import CONTENT
from rft.evaluator import Case, Evaluator, GroupEvaluator, case_rollouts, own_cases
from rft.types import Message, Rollout, Score, Task

Scorer = Callable[[Evaluator, Sequence[Rollout]], Awaitable[list[Score]]]
"""Scores rollouts as training would, each group settled once it is whole; nothing from a cache."""

MOST_TASKS = 16
"""Tasks from data that a stage tries; a live judge is paid for each."""

_FORMS = (
    "{}",
    "The answer is {}.",
    "<answer>{}</answer>",
    "\\boxed{{{}}}",
    "```\n{}\n```",
    '{{"answer": {}}}',
)


@dataclass(frozen=True)
class Answer:
    """An answer whose worth is known.

    >>> Answer(Task("t", "2+2?", reference="4"), "5", good=False, kind="corrupted").text
    '5'
    """

    task: Task
    text: str
    good: bool
    kind: str
    """Where it comes from: golden, reference, corrupted, shuffled, another task's."""


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
        for form in [*_forms_of(own_cases(self.evaluator)), *_FORMS] if few else ():
            write = written_as(form)
            scores = await self.judge([(task, write(task.reference)) for task in few])
            values = [float(score) for score in scores if score.ok]
            mean = float(np.mean(values)) if values else float("-inf")
            if mean > best_mean:
                best, best_mean = write, mean
            if best_mean >= self.evaluator.range[1]:
                break
        return best


def rollout(task: Task, text: str, index: int = 0, group: str | None = None) -> Rollout:
    """A finished rollout whose one answer is `text`."""
    group = group or task.id
    return Rollout(f"{group}/{index}", group, task, (*task.messages, Message("assistant", text)))


def task_of(case: Case) -> Task:
    """The task a golden case is about; cases that ask the same have the same task, by its id."""
    about = json.dumps([case.prompt, case.reference, case.fields], sort_keys=True, default=repr)
    digest = hashlib.sha256(about.encode(errors="replace")).hexdigest()[:8]
    return case_rollouts(case, f"case-{digest}")[0].task


def completions(case: Case) -> list[str]:
    """The case's answers: one, or several that are judged together."""
    return [case.completion] if isinstance(case.completion, str) else list(case.completion)


def from_cases(cases: Sequence[Case], bounds: tuple[float, float]) -> list[Answer]:
    """Answers of golden cases: good in the upper third of what the cases expect, bad in the lower third.

    Of a ranking, the first and the last.
    """
    expected = [(case, _middle(case)) for case in cases]
    values = [value for _, value in expected if value is not None]
    low, high = (min(values), max(values)) if len(set(values)) > 1 else bounds
    found = []
    for case, value in expected:
        task, texts = task_of(case), completions(case)
        if case.expect == "ranked":
            found += [Answer(task, texts[0], True, "golden"), Answer(task, texts[-1], False, "golden")]
        elif value is not None and np.isfinite(high - low):
            place = (value - low) / (high - low)
            if place >= 2 / 3 or place <= 1 / 3:
                found += [Answer(task, text, place >= 2 / 3, "golden") for text in texts]
    return found


def from_references(tasks: Sequence[Task], write: Callable[[Any], str], seed: int) -> list[Answer]:
    """For each task its reference, and bad answers made of it: corrupted, shuffled, another task's."""
    random = np.random.default_rng(seed)
    found = []
    for place, task in enumerate(tasks):
        plain = plain_text(task.reference)
        right = write(task.reference)
        found.append(Answer(task, right, True, "reference"))
        others = [plain_text(one.reference) for one in (*tasks[place + 1 :], *tasks[:place])]
        wrong = {
            "corrupted": corrupted(plain),
            "shuffled": shuffled(plain, random),
            "another task's": next((other for other in others if other != plain), plain),
        }
        found += [
            Answer(task, right.replace(plain, text), False, kind)
            for kind, text in wrong.items()
            if text != plain
        ]
    return found


def plain_text(reference: Any) -> str:
    """A reference as an answer would spell it: JSON for a mapping, items with commas for a list.

    >>> plain_text([1, 2]), plain_text({"a": 1})
    ('1, 2', '{"a": 1}')
    """
    if isinstance(reference, Mapping):
        return json.dumps(reference, default=str)
    if isinstance(reference, Sequence) and not isinstance(reference, str):
        return ", ".join(map(str, reference))
    return str(reference)


def corrupted(text: str) -> str:
    """The text with its last digit changed, else with half of its words gone, else spelt backwards."""
    digits = [match.start() for match in re.finditer(r"[0-9]", text)]
    if digits:
        at = digits[-1]
        return f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}"
    words = text.split()
    return " ".join(words[::2]) if len(words) > 3 else text[::-1]


def shuffled(text: str, random: np.random.Generator) -> str:
    """The text with its words in another order; with its letters, when it is one word."""
    words = text.split()
    pieces, glue = (words, " ") if len(words) > 1 else (list(text), "")
    for _ in range(8):  # a short text may come out as it was
        other = glue.join(pieces[index] for index in random.permutation(len(pieces)))
        if other != text:
            return other
    return text


def written_as(form: str) -> Callable[[Any], str]:
    """A way to write a reference down, from a form like "The answer is {}."."""
    return lambda reference: form.format(plain_text(reference))


def _forms_of(cases: Sequence[Case]) -> list[str]:
    """How the golden cases' best answers are written around their references."""
    forms = []
    for answer in from_cases(cases, (0.0, 1.0)):
        reference = plain_text(answer.task.reference)
        if (
            answer.good
            and answer.task.reference is not None
            and reference
            and answer.text.count(reference) == 1
        ):
            ends = (part.replace("{", "{{").replace("}", "}}") for part in answer.text.split(reference))
            forms.append("{}".join(ends))
    return list(dict.fromkeys(forms))[:4]


def _middle(case: Case) -> float | None:
    if isinstance(case.expect, str):
        return None
    return sum(case.expect) / 2 if isinstance(case.expect, tuple) else float(case.expect)


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

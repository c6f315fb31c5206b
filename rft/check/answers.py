"""Answers of known worth: those of golden cases, and those made from a data set's references.

Golden cases say themselves what they are worth. A reference, written down, is a good answer; spoilt, a bad
one. So a data set is enough to test an evaluator that has no cases yet.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rft.evaluator import Case, case_rollouts
from rft.types import Message, Rollout, Task

FORMS = (
    "{}",
    "The answer is {}.",
    "<answer>{}</answer>",
    "\\boxed{{{}}}",
    "```\n{}\n```",
    '{{"answer": {}}}',
)
"""Ways to write a reference down, the plain one first."""


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


def forms_of(cases: Sequence[Case]) -> list[str]:
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

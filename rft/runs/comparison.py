"""What `rft eval` found: each model's score with its interval, differences on the same tasks, and verdicts.

The unit of every interval is the task: several answers to one task are averaged first. A failed evaluation
has no number, so it is neither in a mean nor in a difference; how many failed stands beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from rft.types import Group

if TYPE_CHECKING:
    from rft.stats import Estimate  # scipy behind it is slow to import


@dataclass(frozen=True)
class Answers:
    """One model's answers to the tasks."""

    model: str
    """As the user named it."""
    weights: str
    """The folder or the address that answered."""
    version: int | None
    """Of the weights; None where an endpoint keeps it to itself."""
    groups: Sequence[Group]
    """One for each task."""
    lengths: Sequence[float]
    """Sampled tokens of each answer, where known."""
    left_out: int = 0
    """Tasks whose prompt does not fit into the model's context."""
    seconds: float = 0.0

    @cached_property
    def values(self) -> Mapping[str, list[float]]:
        """Task id -> the scores that are numbers; tasks without any are left out."""
        scored = {group.task.id: [float(s) for s in group.scores if s.ok] for group in self.groups}
        return {task_id: values for task_id, values in scored.items() if values}

    @cached_property
    def means(self) -> Mapping[str, float]:
        """Task id -> mean score."""
        return {task_id: sum(values) / len(values) for task_id, values in self.values.items()}

    @property
    def estimate(self) -> Estimate | None:
        """Mean over tasks; None when nothing was scored."""
        from rft.stats import mean_interval

        return mean_interval(list(self.means.values())) if self.means else None

    def pass_at(self, k: int, threshold: float) -> Estimate | None:
        """Chance that one of k answers scores at least `threshold`, over tasks with k scored answers."""
        from rft.stats import mean_interval, pass_at_k

        chances = [
            pass_at_k(len(values), sum(value >= threshold for value in values), k)
            for values in self.values.values()
            if len(values) >= k
        ]
        return mean_interval(chances) if chances else None

    @property
    def failures(self) -> Counter[str]:
        """Failed evaluations by kind."""
        return Counter(s.failure.kind for group in self.groups for s in group.scores if s.failure is not None)

    @property
    def skipped(self) -> int:
        """Answers that the evaluator would not judge."""
        return sum(s.status in ("skipped", "not_applicable") for group in self.groups for s in group.scores)

    @property
    def truncated(self) -> float | None:
        """Share of the answers that a limit ended."""
        answered = [r for group in self.groups for r in group.rollouts if r.stop != "tool_error"]
        return sum(r.truncated for r in answered) / len(answered) if answered else None

    @property
    def mean_length(self) -> float | None:
        """Sampled tokens per answer."""
        return sum(self.lengths) / len(self.lengths) if self.lengths else None


@dataclass(frozen=True)
class Verdict:
    """One question that decides the exit code.

    >>> str(Verdict("tuned", False, "mean 0.310 is below 0.5"))
    'no   tuned: mean 0.310 is below 0.5'
    """

    model: str
    passed: bool
    reason: str

    def __str__(self) -> str:
        return f"{'yes' if self.passed else 'no':4} {self.model}: {self.reason}"


def reaches(answers: Answers, min_score: float) -> Verdict:
    """Whether the mean is at least `min_score`."""
    found = answers.estimate
    if found is None:
        return Verdict(answers.model, False, "nothing was scored")
    how = "reaches" if found.mean >= min_score else "is below"
    return Verdict(answers.model, found.mean >= min_score, f"mean {found} {how} {min_score:g}")


def no_worse(model: str, reference: str, difference: Estimate | None, margin: float) -> Verdict:
    """Whether the interval of the paired difference lies above -margin: non-inferiority.

    A tie to the last digit (interval [0, 0]) is no worse even with a margin of 0.
    """
    if difference is None:
        return Verdict(model, False, f"no task was scored for both it and {reference}")
    told = f"{reference}: difference {signed(difference)}, margin {margin:g}"
    if difference.low >= -margin:
        return Verdict(model, True, f"no worse than {told}")
    if difference.mean >= -margin:
        return Verdict(
            model, False, f"not enough data to tell whether it is worse than {told}; take more tasks"
        )
    return Verdict(model, False, f"worse than {told}")


def paired(answers: Answers, reference: Answers) -> Estimate | None:
    """Mean of answers - reference over the tasks that both have a score for; None without any."""
    from rft.stats import paired_difference

    both = [task_id for task_id in reference.means if task_id in answers.means]
    if not both:
        return None
    return paired_difference([answers.means[t] for t in both], [reference.means[t] for t in both])


def signed(difference: Estimate) -> str:
    """A difference with its sign."""
    return f"{'+' if difference.mean >= 0 else ''}{difference}"


@dataclass(frozen=True)
class Comparison:
    """The result of `rft eval`. Shown by rich, printed as one JSON line."""

    recipe: str
    evaluator: str
    fingerprint: str
    samples: int
    temperature: float
    results: Sequence[Answers]
    reference: str
    """The model that the others are compared with."""
    threshold: float
    """From this score on an answer passes."""
    ks: Sequence[int] = (1,)
    verdicts: Sequence[Verdict] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Whether every verdict is a yes."""
        return all(verdict.passed for verdict in self.verdicts)

    def difference(self, answers: Answers) -> Estimate | None:
        """Paired with the reference; None for the reference itself or without a task in common."""
        if answers.model == self.reference:
            return None
        return paired(answers, next(a for a in self.results if a.model == self.reference))

    def to_json(self, *, with_answers: bool = False) -> dict[str, Any]:
        """Everything; with the answers' texts and the reasons of their scores too, if asked."""
        return {
            "recipe": self.recipe,
            "evaluator": self.evaluator,
            "fingerprint": self.fingerprint,
            "samples": self.samples,
            "temperature": self.temperature,
            "reference": self.reference,
            "threshold": self.threshold,
            "models": [self._facts(answers, with_answers) for answers in self.results],
            "verdicts": [vars(verdict) for verdict in self.verdicts],
            "passed": self.passed,
        }

    def _facts(self, answers: Answers, with_answers: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "model": answers.model,
            "weights": answers.weights,
            "version": answers.version,
            **_spread("", answers.estimate),
            "tasks": len(answers.means),
            "failed": sum(answers.failures.values()),
            "failures": dict(answers.failures),
            "skipped": answers.skipped,
            "left_out": answers.left_out,
            "truncated": answers.truncated,
            "length": answers.mean_length,
            "pass_at": {str(k): (e.mean if e else None) for k, e in self._passes(answers)},
            **_spread("difference_", self.difference(answers)),
            "seconds": round(answers.seconds, 3),
            "scores": {group.task.id: [score.value for score in group.scores] for group in answers.groups},
        }
        if with_answers:
            facts["answers"] = [_answer(group) for group in answers.groups]
        return facts

    def _passes(self, answers: Answers) -> list[tuple[int, Estimate | None]]:
        return [(k, answers.pass_at(k, self.threshold)) for k in self.ks]

    def __rich__(self) -> Lines:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("model", overflow="fold")
        columns = [
            "mean, 95 %",
            "tasks",
            "failed",
            "skipped",
            "truncated",
            "tokens",
            *(f"pass@{k}" for k in self.ks),
        ]
        if len(self.results) > 1:
            columns.append(f"against {self.reference}, paired")
        for column in columns:
            table.add_column(column, justify="right")
        for answers in self.results:
            table.add_row(Text(answers.model), *self._cells(answers))
        return Lines(table, *(Text(str(verdict)) for verdict in self.verdicts))

    def _cells(self, answers: Answers) -> list[str]:
        cells = [
            str(answers.estimate or "no score"),
            str(len(answers.means)),
            str(sum(answers.failures.values())),
            str(answers.skipped + answers.left_out),
            _shown(answers.truncated, ".0%"),
            _shown(answers.mean_length, ".0f"),
            *(_shown(e.mean if e else None, ".3f") for _, e in self._passes(answers)),
        ]
        if len(self.results) > 1:
            difference = self.difference(answers)
            cells.append(signed(difference) if difference else "")
        return cells


def _spread(prefix: str, found: Estimate | None) -> dict[str, float | None]:
    if found is None:
        return {f"{prefix}mean": None, f"{prefix}low": None, f"{prefix}high": None}
    return {f"{prefix}mean": found.mean, f"{prefix}low": found.low, f"{prefix}high": found.high}


def _answer(group: Group) -> dict[str, Any]:
    return {
        "task": group.task.id,
        "prompt": group.task.messages[-1].content,
        "reference": group.task.reference,
        "texts": [rollout.text for rollout in group.rollouts],
        "scores": [score.value for score in group.scores],
        "reasons": [score.explain() if not score.ok else score.reason for score in group.scores],
    }


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)

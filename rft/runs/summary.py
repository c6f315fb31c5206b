"""What a run came to: held-out reward before and after, and the same prompts answered by both models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from rft.runs.checkpoint import Best
from rft.runs.view import duration

if TYPE_CHECKING:
    from rft.stats import Estimate  # scipy behind it is slow to import

_LONGEST = 300
"""Characters of a prompt or an answer that are shown."""


@dataclass(frozen=True)
class Answer:
    """One held-out task as the model answered it before and after.

    >>> Answer("Sort: 2 1", before="Sure!", after="1 2", reward_before=0.0, reward_after=1.0).after
    '1 2'
    """

    prompt: str
    before: str
    after: str
    reward_before: float | None = None
    """None: that answer could not be scored."""
    reward_after: float | None = None


@dataclass(frozen=True)
class Summary:
    """The result of `rft train`. Shown by rich, stored as Markdown, printed as one JSON line."""

    run: str
    """Path of the run folder."""
    steps: int
    """Completed steps."""
    seconds: float
    peak_rss_gb: float
    heldout_before: Estimate | None = None
    """None: nothing was held out, or the evaluation did not come to an end."""
    heldout_after: Estimate | None = None
    difference: Estimate | None = None
    """After minus before on the same tasks: paired, so narrower than the two intervals suggest."""
    answers: Sequence[Answer] = ()
    best: Best | None = None
    """The kept checkpoint with the highest held-out reward."""
    warnings: Sequence[str] = ()
    """What left its healthy range; see `rft.runs.metrics.warnings`."""

    stages: Sequence[Summary] = ()
    """Of a recipe with stages: each one's own."""

    def short(self) -> str:
        """Held-out reward before and after, in a few words."""
        if self.heldout_before is None or self.heldout_after is None:
            return "held-out not measured"
        return f"held-out {self.heldout_before.mean:.3f} to {self.heldout_after.mean:.3f}"

    def to_json(self) -> dict[str, Any]:
        """The keys of `rft train --json`; `heldout_interval` is that of the paired difference."""
        stages = {"stages": [stage.to_json() for stage in self.stages]} if self.stages else {}
        return {
            "run": self.run,
            "steps": self.steps,
            "heldout_before": self.heldout_before.mean if self.heldout_before else None,
            "heldout_after": self.heldout_after.mean if self.heldout_after else None,
            "heldout_interval": [self.difference.low, self.difference.high] if self.difference else None,
            "seconds": round(self.seconds, 3),
            "peak_rss_gb": round(self.peak_rss_gb, 3),
            "best": str(self.best.path) if self.best else None,
            **stages,
        }

    def to_markdown(self) -> str:
        """The text of report.md."""
        lines = [f"# {self.run}", "", "| | |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in self._facts().items()]
        if self.answers:
            lines += ["", "| prompt | before | after |", "| --- | --- | --- |"]
            lines += [
                "| " + " | ".join(map(markdown_cell, _columns(answer))) + " |" for answer in self.answers
            ]
        if self.warnings:
            lines += [
                "",
                "## What left its healthy range",
                "",
                *(f"- {warning}" for warning in self.warnings),
            ]
        return "\n".join(lines) + "\n"

    def __rich__(self) -> Group:
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim", justify="right")
        facts.add_column()
        for name, value in self._facts().items():
            facts.add_row(name, Text(value))
        if not self.answers:
            return Group(facts)
        table = Table(show_lines=True)
        for column in ("prompt", "before", "after"):
            table.add_column(column, ratio=1, overflow="fold")
        for answer in self.answers:
            table.add_row(*map(Text, _columns(answer)))
        return Group(facts, table)

    def _facts(self) -> Mapping[str, str]:
        facts = {
            "held-out before": str(self.heldout_before) if self.heldout_before else "not measured",
            "held-out after": str(self.heldout_after) if self.heldout_after else "not measured",
        }
        if self.difference:
            sign = "+" if self.difference.mean >= 0 else ""
            facts["difference, paired"] = f"{sign}{self.difference}"
        if self.best:
            facts["best checkpoint"] = f"{self.best.path} (held-out {self.best.heldout:.3f})"
        for number, stage in enumerate(self.stages, 1):
            facts[f"stage {number}"] = f"{stage.short()}, {stage.steps} steps, {stage.run}"
        return facts | {
            "steps": str(self.steps),
            "time": duration(self.seconds),
            "peak memory": f"{self.peak_rss_gb:.1f} GB",
            "run": self.run,
        }


def _columns(answer: Answer) -> tuple[str, str, str]:
    return (
        _short(answer.prompt),
        f"{_score(answer.reward_before)} {_short(answer.before)}",
        f"{_score(answer.reward_after)} {_short(answer.after)}",
    )


def _score(value: float | None) -> str:
    return "[no score]" if value is None else f"[{value:.2f}]"


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def markdown_cell(text: str) -> str:
    """Text that cannot break out of a Markdown table."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return "<br>".join(escaped.splitlines())

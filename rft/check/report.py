"""The report of a check: shown on a terminal, stored as JSON, pasted as Markdown, read by the trainer.

Reports are kept by fingerprint, so that a changed evaluator has none: in `$RFT_CHECKS`, else in
`~/.cache/rft/checks`. A run stores the one it started with in its folder. A check of some stages only is
shown, but not kept: it would vouch for what it did not look at.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rft.check.findings import DEFAULTS, Outcome, StageResult, Thresholds, worst
from rft.errors import RunError

FORMAT = "rft.check/1"
_COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "skipped": "dim", "note": "dim"}
_SHOWN_FIGURES = 8


@dataclass(frozen=True)
class Report:
    """What a check came to, and exactly what was checked."""

    evaluator: str
    fingerprint: str
    stages: Sequence[StageResult]
    complete: bool
    """Whether every stage was asked for; those without material count, and say why they were skipped."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Its options; secrets by name."""
    dataset: str | None = None
    """Hash of the tasks it was tried on."""
    policy: str | None = None
    """Whose answers it was tried on."""
    versions: Mapping[str, str] = field(default_factory=dict)
    thresholds: Thresholds = DEFAULTS
    time: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )

    @property
    def outcome(self) -> Outcome:
        """The worst stage."""
        return worst([stage.outcome for stage in self.stages])

    @property
    def passed(self) -> bool:
        """Whether nothing failed and something was looked at. Warnings pass."""
        return self.outcome in ("pass", "warn")

    def to_json(self) -> dict[str, Any]:
        """Plain values, in a format that names its version."""
        return {
            "format": FORMAT,
            "evaluator": self.evaluator,
            "fingerprint": self.fingerprint,
            "outcome": self.outcome,
            "complete": self.complete,
            "time": self.time,
            "config": dict(self.config),
            "dataset": self.dataset,
            "policy": self.policy,
            "versions": dict(self.versions),
            "thresholds": self.thresholds.model_dump(),
            "stages": [stage.to_json() for stage in self.stages],
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Report:
        """The reverse of `to_json`. Raises ValueError, KeyError or TypeError for something else."""
        if raw["format"] != FORMAT:
            raise ValueError(f"format is {raw['format']!r}, not {FORMAT!r}")
        return cls(
            evaluator=raw["evaluator"],
            fingerprint=raw["fingerprint"],
            stages=[StageResult.from_json(stage) for stage in raw["stages"]],
            complete=raw["complete"],
            config=raw["config"],
            dataset=raw["dataset"],
            policy=raw["policy"],
            versions=raw["versions"],
            thresholds=Thresholds(**raw["thresholds"]),
            time=raw["time"],
        )

    def to_markdown(self) -> str:
        """For a pull request or a run's folder."""
        lines = [
            f"# Check of {self.evaluator}: {self.outcome}",
            "",
            f"Fingerprint `{self.fingerprint}`, {self.time}."
            + (f" Tasks `{self.dataset}`." if self.dataset else "")
            + (f" Policy {self.policy}." if self.policy else ""),
            "",
            "| stage | outcome | figures |",
            "| --- | --- | --- |",
            *(f"| {s.stage} | {s.outcome} | {_figures(s) or s.skipped or ''} |" for s in self.stages),
        ]
        for stage in self.stages:
            for finding in stage.findings:
                lines += ["", f"**{stage.stage}, {finding.level}**: {_cell(finding.seen)}."]
                lines += [f"What to do: {_cell(finding.todo)}."] if finding.todo else []
                lines += [f"- `{_cell(example)}`" for example in finding.examples]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "\n".join([*lines, "", f"With {versions}.", ""])

    def annotations(self) -> list[str]:
        """A line for each finding in GitHub's workflow language; none elsewhere."""
        if os.environ.get("GITHUB_ACTIONS") != "true":
            return []
        words = {"warn": "warning", "fail": "error"}
        return [
            f"::{words[finding.level]} title={self.evaluator} {stage.stage}::{' '.join(str(finding).split())}"
            for stage in self.stages
            for finding in stage.findings
            if finding.level in words
        ]

    def __rich__(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("stage", "", "figures"):
            table.add_column(column, overflow="fold")
        told: list[RenderableType] = []
        for stage in self.stages:
            outcome = Text(stage.outcome, style=_COLOURS[stage.outcome])
            table.add_row(stage.stage, outcome, Text(_figures(stage) or stage.skipped or ""))
            for finding in stage.findings:
                head = Text(f"{stage.stage} {finding.level}  ", style=_COLOURS[finding.level])
                told += [Text(), head + Text(f"{finding.seen}.", style="default")]
                told += [Padding(Text(f"What to do: {finding.todo}."), (0, 0, 0, 2))] if finding.todo else []
                told += [Padding(Text(example, style="dim"), (0, 0, 0, 2)) for example in finding.examples]
        verdict = Text(f"{self.evaluator}: {self.outcome}", style=f"bold {_COLOURS[self.outcome]}")
        return Group(table, *told, Text(), verdict + Text(f"  fingerprint {self.fingerprint}", style="dim"))


def checks_folder() -> Path:
    """Where reports are kept."""
    return Path(os.environ.get("RFT_CHECKS") or "~/.cache/rft/checks").expanduser()


def stored_report(fingerprint: str) -> Report | None:
    """The kept report for a fingerprint; None without one. Raises RunError for one that cannot be read."""
    return read_report(checks_folder() / f"{fingerprint}.json", fingerprint)


def read_report(path: Path, fingerprint: str) -> Report | None:
    """The report in a file; None without one, or when it is about another evaluator. Raises RunError."""
    try:
        report = Report.from_json(json.loads(path.read_text(encoding="utf-8")))
        return report if report.fingerprint == fingerprint else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"the check report {path} cannot be read ({error}); delete it and check again"
        ) from error


def store_report(report: Report, folder: Path | None = None, name: str | None = None) -> list[Path]:
    """Writes NAME.json and NAME.md, by fingerprint where reports are kept unless told otherwise.

    Raises RunError when that cannot be done.
    """
    place, name = folder or checks_folder(), name or report.fingerprint
    written = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(_plain(report.to_json()), indent=1, ensure_ascii=False) + "\n"
        for path, content in ((place / f"{name}.json", text), (place / f"{name}.md", report.to_markdown())):
            aside = path.with_name(f".{path.name}.tmp")
            aside.write_text(content, encoding="utf-8", errors="replace")
            aside.replace(path)
            written.append(path)
    except OSError as error:
        raise RunError(f"the report could not be written to {place}: {error.strerror}") from error
    return written


def _plain(value: Any) -> Any:
    """Without infinities and NaN, which JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if abs(value) != float("inf") and value == value else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _figures(stage: StageResult) -> str:
    known = [(name, value) for name, value in stage.figures.items() if value is not None]
    return ", ".join(f"{name} {value:.3g}" for name, value in known[:_SHOWN_FIGURES])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("\n", " ")

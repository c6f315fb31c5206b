"""What a stage says: findings in whole sentences, figures by name, and the thresholds they are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Literal["note", "warn", "fail"]
Outcome = Literal["pass", "warn", "fail", "skipped"]

_RANK: dict[Outcome, int] = {"skipped": 0, "pass": 1, "warn": 2, "fail": 3}
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Thresholds(BaseModel):
    """Where a figure begins to warn and to fail. Set any of them with `--set NAME=VALUE`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    min_cases: int = Field(default=10, ge=0)
    """Fewer golden cases than this warn."""
    auc_fail: Share = 0.8
    """Discrimination: a good answer must outscore a bad one this often, ties counted half."""
    auc_warn: Share = 0.9
    noise_fail: float = Field(default=0.5, ge=0)
    """Repeatability: standard deviation within a rollout over that between rollouts."""
    noise_warn: float = Field(default=0.2, ge=0)
    probe_fail: Share = 0.2
    """Adversarial: a probe that gets full marks on more than this share of tasks fails; any share warns."""
    changed_warn: Share = 0.05
    """Invariance: share of edits without meaning that changed the score."""
    shortcut_warn: Share = 0.4
    """Shortcuts: |partial Spearman| of the score with length, lists, code fences, hedges."""
    min_rollouts: int = Field(default=100, ge=10)
    """Shortcuts: fewer rollouts than this say too little."""
    dominance_warn: Share = 0.9
    """Shortcuts: one part of a composite moves this share of the score."""
    leak_warn: Share = 0.05
    """Shortcuts: share of prompts that hold their own reference."""
    kappa_fail: float = Field(default=0.4, ge=-1, le=1)
    """Human agreement: the lower bound of Cohen's kappa."""
    kappa_warn: float = Field(default=0.6, ge=-1, le=1)
    constant_fail: Share = 0.7
    """Policy: share of groups whose members all score the same, which teach nothing."""
    pass_low_warn: Share = 0.05
    """Policy: share of answers that pass, below and above which there is little to learn."""
    pass_high_warn: Share = 0.95
    truncated_warn: Share = 0.2
    """Policy: share of answers cut by a limit."""


DEFAULTS = Thresholds()


@dataclass(frozen=True)
class Finding:
    """One thing that was seen, and what to do about it.

    >>> print(Finding("warn", "4 golden cases", "add cases until there are 10"))
    4 golden cases: add cases until there are 10
    """

    level: Level
    seen: str
    todo: str = ""
    """Empty only for a note."""
    examples: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.seen}: {self.todo}" if self.todo else self.seen


@dataclass(frozen=True)
class StageResult:
    """What one stage came to.

    >>> StageResult("golden", [Finding("warn", "4 golden cases", "add some")]).outcome
    'warn'
    """

    stage: str
    findings: Sequence[Finding] = ()
    figures: Mapping[str, float | None] = field(default_factory=dict)
    skipped: str | None = None
    """Why nothing could be looked at, and what would change that."""
    seconds: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """The worst finding; "pass" without one, "skipped" when there was nothing to look at."""
        levels = {finding.level for finding in self.findings}
        if "fail" in levels:
            return "fail"
        if "warn" in levels:
            return "warn"
        return "pass" if self.skipped is None else "skipped"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "stage": self.stage,
            "outcome": self.outcome,
            "skipped": self.skipped,
            "findings": [
                {"level": f.level, "seen": f.seen, "todo": f.todo, "examples": list(f.examples)}
                for f in self.findings
            ],
            "figures": dict(self.figures),
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> StageResult:
        """The reverse of `to_json`. Raises KeyError or TypeError for something else."""
        findings = [Finding(**finding) for finding in raw["findings"]]
        return cls(raw["stage"], findings, raw["figures"], raw["skipped"], raw["seconds"])


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The worst of several; "skipped" of none."""
    return max(outcomes, key=lambda outcome: _RANK[outcome], default="skipped")


def quoted(text: str, longest: int = 60) -> str:
    """A text in quotes on one line, cut to so many characters."""
    return repr(text if len(text) <= longest else text[: longest - 3] + "...")

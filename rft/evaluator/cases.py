"""Golden cases: answers whose score is known. They travel with an evaluator and are its unit tests.

One form for Python and for files, one case a line:

    {"prompt": "2+2?", "completion": "4", "reference": "4", "expect": 1.0}
    {"prompt": "2+2?", "completion": "five", "reference": "4", "expect": [0.0, 0.2]}
    {"prompt": "2+2?", "completion": ["4", "about 4", "5"], "expect": "ranked"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rft.errors import DataError
from rft.types import Message, Score

Expect = float | tuple[float, float] | Literal["unscored", "ranked"]


@dataclass(frozen=True)
class Case:
    """A golden case: an answer whose score is known. Cases travel with the evaluator.

    >>> case = Case(prompt="2+2?", completion="4", reference="4", expect=1.0)
    >>> case.holds(Score(1.0)), case.holds(Score(0.5)), case.holds(Score.skip("no gold answer"))
    (True, False, False)
    """

    prompt: str | Sequence[Message | Mapping[str, Any]]
    """A user message, or a whole conversation."""
    completion: str | Sequence[str]
    """The answer; several for an evaluator that judges them together."""
    expect: Expect
    """The exact score, an interval it must fall into, "unscored"; or "ranked": best first, no ties."""
    reference: Any = None
    fields: Mapping[str, Any] | None = None
    """The task's other columns."""
    config: Mapping[str, Any] | None = None
    """The `with:` block this case is about; None is the defaults."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Case:
        """A case from its JSON form. Raises ValueError saying what is missing, unknown or unreadable."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(raw) - set(known)):
            raise ValueError(f"unknown key {unknown[0]!r}; a case has {', '.join(known)}")
        if missing := [name for name in known[:3] if name not in raw]:
            raise ValueError(f"key {missing[0]!r} is missing")
        return cls(**{**raw, "expect": _expectation(raw["expect"])})

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; what is not given is left out."""
        raw = {field.name: getattr(self, field.name) for field in fields(self)}
        if not isinstance(self.prompt, str):
            raw["prompt"] = [m.to_dict() if isinstance(m, Message) else dict(m) for m in self.prompt]
        return {name: value for name, value in raw.items() if value is not None}

    def holds(self, *scores: Score) -> bool:
        """Whether every score is as expected (an exact value to within 1e-6)."""
        if self.expect == "ranked":
            return all(score.ok for score in scores) and all(
                float(better) > float(worse) for better, worse in zip(scores, scores[1:], strict=False)
            )
        return all(self._one_holds(score) for score in scores)

    def _one_holds(self, score: Score) -> bool:
        if score.value is None or isinstance(self.expect, str):
            return not score.ok and self.expect == "unscored"
        low, high = self.expect if isinstance(self.expect, tuple) else (self.expect, self.expect)
        return low - 1e-6 <= score.value <= high + 1e-6


def load_cases(path: str | Path) -> list[Case]:
    """The cases of a JSONL file. Raises DataError that names the file and the line."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"golden cases {path} cannot be read: {error}") from error
    cases = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
            if not isinstance(raw, dict):
                raise ValueError(f"a case is a JSON object, got a {type(raw).__name__}")
            cases.append(Case.from_dict(raw))
        except ValueError as error:
            raise DataError(f"golden cases {path}, line {number}: {error}") from error
    return cases


def _expectation(raw: Any) -> Expect:
    if raw in ("unscored", "ranked"):
        return "unscored" if raw == "unscored" else "ranked"
    pair = raw if isinstance(raw, list | tuple) else [raw, raw]
    if len(pair) != 2 or not all(isinstance(end, int | float) for end in pair):
        raise ValueError(f'expect must be a number, [low, high], "unscored" or "ranked", got {raw!r}')
    low, high = map(float, pair)
    if not low <= high:
        raise ValueError(f"expect must be [low, high], got {raw!r}")
    return (low, high) if isinstance(raw, list | tuple) else low

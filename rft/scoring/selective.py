"""Do evaluations fail at random, or for some answers rather than others?

Masking is unbiased only as long as failing has nothing to do with what was answered. Where long answers time
out, masking favours short ones; and answers that crash a grader are never pushed down, so a policy can drift
towards them. Two signs: failing goes with length or with a part of the score, and failing becomes
more frequent while the policy changes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from rft.types import Rollout, Score

_FEWEST = 10
"""Failures, and evaluations that did not fail, below which nothing is said."""
_MARKED = 0.2
"""A smaller rank correlation is nobody's worry, however sure."""
_SURE = 0.001
"""The chance of seeing as much by accident, below which an alarm is raised."""


@dataclass(frozen=True)
class _Seen:
    failed: bool
    length: int
    parts: dict[str, float]


class _Correlation(NamedTuple):
    rho: float
    p: float


class SelectiveFailure:
    """Watches for failures that are not random.

    Args:
        window: evaluations looked at together; the first so many are what later ones are compared with.
    """

    def __init__(self, window: int = 512) -> None:
        self._recent: deque[_Seen] = deque(maxlen=window)
        self._window = window
        self._seen = 0
        self._first_failed = 0
        self._said: set[str] = set()

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain JSON values."""
        return {
            "recent": [asdict(one) for one in self._recent],
            "seen": self._seen,
            "first_failed": self._first_failed,
            "said": sorted(self._said),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on watching where `state` was taken."""
        self._recent.extend(_Seen(**one) for one in state["recent"])
        self._seen, self._first_failed = state["seen"], state["first_failed"]
        self._said = set(state["said"])

    def record(self, rollout: Rollout, score: Score) -> None:
        """Takes note of one evaluation."""
        failed = score.status == "failed"
        parts = {name: float(part) for name, part in score.parts.items() if part.ok}
        self._recent.append(_Seen(failed, rollout.num_tokens, parts))
        if self._seen < self._window:
            self._first_failed += failed
        self._seen += 1

    def metrics(self) -> dict[str, float]:
        """Under the names of `rft/runs/metrics.py`."""
        if not self._recent:
            return {}
        found = {"failing/rate": sum(one.failed for one in self._recent) / len(self._recent)}
        found |= {name: correlation.rho for name, correlation in self._correlations().items()}
        if self._seen >= 2 * self._window:
            found["failing/rise"] = found["failing/rate"] - self._first_failed / self._window
        return found

    def alarms(self) -> list[str]:
        """What has become true since the last time, in sentences."""
        true = self._findings()
        new = [text for name, text in true.items() if name not in self._said]
        self._said = set(true)
        return new

    def _findings(self) -> dict[str, str]:
        found = {}
        for name, (rho, p) in self._correlations().items():
            if abs(rho) >= _MARKED and p < _SURE:
                what, _, part = name.removeprefix("failing/with_").partition("/")
                what = f"part {part}" if part else what
                found[name] = (
                    f"evaluations fail more often the {'higher' if rho > 0 else 'lower'} the {what} of an "
                    f"answer (rank correlation {rho:.2f} over {len(self._recent)}): masking is not neutral"
                )
        if self._seen >= 2 * self._window:
            rate = sum(one.failed for one in self._recent) / self._window
            before = self._first_failed / self._window
            if rate >= 2 * before and _risen(before, rate, self._window):
                found["failing/rise"] = (
                    f"evaluations fail more often than at the start: {rate:.1%} of the last {self._window}, "
                    f"{before:.1%} of the first; the policy may move towards answers that cannot be judged"
                )
        return found

    def _correlations(self) -> dict[str, _Correlation]:
        everyone = list(self._recent)
        found = {"failing/with_length": _correlation([(one.failed, one.length) for one in everyone])}
        for part in sorted({name for one in everyone for name in one.parts}):
            pairs = [(one.failed, one.parts[part]) for one in everyone if part in one.parts]
            found[f"failing/with_part/{part}"] = _correlation(pairs)
        return {name: one for name, one in found.items() if one is not None}


def _correlation(pairs: list[tuple[bool, float]]) -> _Correlation | None:
    """Spearman's rank correlation of failing with a number; None where there is too little to tell."""
    failures = sum(failed for failed, _ in pairs)
    if min(failures, len(pairs) - failures) < _FEWEST or len({value for _, value in pairs}) < 2:
        return None
    # Imported only here, so that `import rft` stays quick.
    from scipy.stats import spearmanr

    rho, p = spearmanr([failed for failed, _ in pairs], [value for _, value in pairs])
    return _Correlation(float(rho), float(p))


def _risen(before: float, now: float, count: int) -> bool:
    """Whether the difference of two shares of `count` each is more than three standard errors."""
    pooled = (before + now) / 2
    return now - before > 3 * math.sqrt(2 * pooled * (1 - pooled) / count)

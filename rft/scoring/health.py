"""Stops a run whose evaluator is broken, before masking hides it for hours.

Three thresholds: the share of failures among the latest evaluations, the number of exceptions that are the
author's own, and the share of a step's groups that have enough members with a number. A spent budget stops at
once, and so does a failure that can only be repeated (a refused key). Skipped and not-applicable scores are
decisions, not failures: only groups go short of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from rft.errors import RunStopped
from rft.types import FailureKind, Score

_FEW = 64
"""Until so many evaluations are seen, the rate is taken over this many: one early hiccup stops nothing."""


class FailureWatch:
    """Counts failures by kind and says when there are too many.

    Args:
        max_failure_rate: the share of the last `window` evaluations that may fail, 0 to 1.
        max_bugs: so many failures of kind `bug` are borne over the whole run; one more is too many.
        min_groups: the share of a step's groups that must have enough scored members, 0 to 1.

    >>> watch = FailureWatch(max_failure_rate=0.5, max_bugs=0)
    >>> watch.record(Score.failed("bug", "KeyError: 'fee' (judge.py:7)"))
    >>> print(watch.reason())
    the evaluator's own code failed 1 time (train.max_bugs allows 0): bug 1, e.g. KeyError: 'fee' (judge.py:7)
    """

    def __init__(
        self, max_failure_rate: float, max_bugs: int, window: int = 512, min_groups: float = 0.0
    ) -> None:
        self.max_failure_rate = max_failure_rate
        self.max_bugs = max_bugs
        self.min_groups = min_groups
        self.counts_by_kind: Counter[FailureKind] = Counter()
        """Over the whole run."""
        self._example: dict[str, str] = {}
        self._hopeless: str | None = None
        self._recent: deque[FailureKind | None] = deque(maxlen=window)
        self._groups: Sequence[bool] = ()

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain JSON values; nothing when there is a reason to stop, because whoever
        goes on after that has mended something."""
        if self.reason() is not None:
            return {}
        return {
            "counts": dict(self.counts_by_kind),
            "examples": dict(self._example),
            "recent": list(self._recent),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on counting where `state` was taken."""
        self.counts_by_kind.update(state.get("counts", {}))
        self._example.update(state.get("examples", {}))
        self._recent.extend(state.get("recent", ()))

    def record(self, score: Score) -> None:
        """Takes note of one evaluation. An optional part's failure is counted, but not for the rate."""
        self._recent.append(score.failure.kind if score.failure else None)
        for one in [score] if score.failure else score.parts.values():
            if one.failure is not None:
                self.counts_by_kind[one.failure.kind] += 1
                self._example[one.failure.kind] = one.failure.detail
                if one.failure.hopeless:
                    self._hopeless = one.failure.detail

    def record_groups(self, enough: Sequence[bool]) -> None:
        """Takes note of a step's groups: which of them have enough members with a number."""
        self._groups = enough

    def reason(self) -> str | None:
        """Why the run should stop now, in one sentence with the top kinds and an example each; else None."""
        if self._hopeless is not None:
            return f"every further evaluation would fail like this one: {self._hopeless}"
        bugs = self.counts_by_kind["bug"]
        failures = [kind for kind in self._recent if kind is not None]
        if bugs > self.max_bugs:
            times = "time" if bugs == 1 else "times"
            return (
                f"the evaluator's own code failed {bugs} {times} (train.max_bugs allows {self.max_bugs}): "
                + self._examples({"bug": bugs})
            )
        if spent := self.counts_by_kind["budget"]:
            return "no budget is left for evaluations: " + self._examples({"budget": spent})
        seen = len(self._recent)
        if len(failures) > self.max_failure_rate * max(seen, min(_FEW, self._recent.maxlen or _FEW)):
            return (
                f"{len(failures)} of the last {seen} evaluations failed "
                f"(train.max_failure_rate allows {self.max_failure_rate:.0%}): "
                + self._examples(Counter(failures))
            )
        if sum(self._groups) < self.min_groups * len(self._groups):
            return (
                f"only {sum(self._groups)} of {len(self._groups)} groups have enough scored members "
                f"(train.min_groups asks for {self.min_groups:.0%}): {self._examples(self.counts_by_kind)}"
            )
        return None

    def check(self) -> None:
        """Raises RunStopped when there is a reason to stop. Checkpoint before letting it through."""
        if why := self.reason():
            raise RunStopped(why)

    def _examples(self, counts: Mapping[FailureKind, int], top: int = 3) -> str:
        most = Counter(counts).most_common(top)
        if not most:
            return "skipped by the evaluator"
        return "; ".join(f"{kind} {count}, e.g. {self._example[kind]}" for kind, count in most)

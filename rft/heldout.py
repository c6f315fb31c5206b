"""What held-out answers say, read from the run folder: a run that goes on is compared with its own start."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft.process import peak_rss_gb
from rft.runs.checkpoint import best
from rft.runs.folder import RunFolder
from rft.runs.metrics import warnings
from rft.runs.rollouts import read_rollouts
from rft.runs.summary import Answer, Summary
from rft.stats import Estimate, mean_interval, paired_difference

_ANSWERS_SHOWN = 5


@dataclass(frozen=True)
class Judged:
    """One held-out evaluation, as the rows of its Parquet file."""

    rows: Sequence[Mapping[str, Any]]
    seconds: float | None = None
    """What it took; None for one that is read back."""

    @classmethod
    def stored(cls, run: RunFolder) -> list[Judged]:
        """All of a run's, oldest first. Raises RunError for a damaged file."""
        return [cls(read_rollouts(path)) for path in run.rollout_files("heldout")]

    @property
    def by_task(self) -> dict[str, float]:
        """Mean reward of each task's samples; tasks without a single score are left out."""
        scored: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            if row["reward"] is not None:
                scored[row["group_id"]].append(row["reward"])
        return {group_id: sum(values) / len(values) for group_id, values in scored.items()}

    @property
    def estimate(self) -> Estimate | None:
        """Mean over tasks; None when nothing was scored."""
        return mean_interval(list(self.by_task.values())) if self.by_task else None

    def metrics(self) -> dict[str, float]:
        """The estimate under the names of `rft/runs/metrics.py`."""
        metrics = {} if self.seconds is None else {"time/eval_s": self.seconds}
        if (estimate := self.estimate) is not None:
            metrics |= {
                "heldout/mean": estimate.mean,
                "heldout/low": estimate.low,
                "heldout/high": estimate.high,
            }
        return metrics


def summarise(run: RunFolder, steps: int, seconds: float, before: Judged, after: Judged) -> Summary:
    """The end of a run: means, their paired difference, and a few answers side by side."""
    old, new = before.by_task, after.by_task
    both = [name for name in old if name in new]
    # Reversed, so that the first answer of each group stays; dicts keep the order of `before`.
    later = {row["group_id"]: row for row in reversed(after.rows)}
    earlier = {row["group_id"]: row for row in reversed(before.rows)}
    shown = [name for name in reversed(earlier) if name in later][:_ANSWERS_SHOWN]
    difference = None
    if both:
        difference = paired_difference([new[name] for name in both], [old[name] for name in both])
    return Summary(
        run=str(run.path),
        steps=steps,
        seconds=seconds,
        peak_rss_gb=peak_rss_gb(),
        best=best(run),
        heldout_before=before.estimate,
        heldout_after=after.estimate,
        difference=difference,
        warnings=warnings(run.metrics()),
        answers=[
            Answer(
                prompt=_asked(earlier[name]["prompt"]),
                before=earlier[name]["text"],
                after=later[name]["text"],
                reward_before=earlier[name]["reward"],
                reward_after=later[name]["reward"],
            )
            for name in shown
        ],
    )


def _asked(prompt: str) -> str:
    """The last message of a stored prompt, which is JSON for a chat and plain text otherwise."""
    try:
        return str(json.loads(prompt)[-1]["content"])
    except (ValueError, LookupError, TypeError):
        return prompt

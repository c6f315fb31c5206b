"""Repeatability: does the same answer get the same score again?

`deterministic = True` is a promise: scores are then cached and never asked for again. And an evaluator whose
noise on one answer is as large as its differences between answers teaches the noise.
"""

from __future__ import annotations

import numpy as np

from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult, quoted

REPEATS = 5
_SAME = 1e-9
_MOST = 32


async def repeatability(bench: Bench) -> StageResult:
    """Scores known answers five times, one round after another."""
    answers = [(one.task, one.text) for one in await bench.answers()]
    # Every second, third, ... of many, so that good and bad ones of all tasks are among them.
    answers = answers[:: max(1, len(answers) // _MOST)] if not bench.grouped else answers
    if not answers:
        return StageResult("repeatability", skipped="no answers to score again; add golden cases")
    rounds = [await bench.judge(answers) for _ in range(REPEATS)]
    kept = [i for i in range(len(answers)) if all(scores[i].ok for scores in rounds)]
    if not kept:
        return StageResult("repeatability", skipped="no answer was scored each time; see the contract stage")
    values = np.array([[float(scores[i]) for scores in rounds] for i in kept])
    within = float(np.sqrt(values.var(axis=1, ddof=1).mean()))
    between = float(values.mean(axis=1).std(ddof=1)) if len(kept) > 1 else 0.0
    ratio = None if between < _SAME else within / between
    spreads = np.ptp(values, axis=1)
    middle = float(values.mean(axis=1).min() + values.mean(axis=1).max()) / 2
    flips = float(((values >= middle).min(axis=1) != (values >= middle).max(axis=1)).mean())
    figures = {"within_sd": within, "between_sd": between, "noise_ratio": ratio, "flips": flips}

    findings = []
    worst = kept[int(spreads.argmax())]
    shown = ", ".join(f"{value:.3g}" for value in values[int(spreads.argmax())])
    example = [f"{quoted(answers[worst][1])} -> {shown}"]
    if bench.evaluator.deterministic and spreads.max() > _SAME:
        findings.append(
            Finding(
                "fail",
                f"declares deterministic = True, but the same answer got {shown}",
                "set deterministic = False, so that scores are not cached, or fix what draws lots "
                "(a seed, a judge's temperature)",
                example,
            )
        )
    if ratio is not None and ratio > bench.thresholds.noise_warn:
        findings.append(
            Finding(
                "fail" if ratio > bench.thresholds.noise_fail else "warn",
                f"scores of one answer spread by {ratio:.0%} of the spread between answers; "
                f"{flips:.0%} of the verdicts flip",
                "ask several times and take the mean, lower a judge's temperature, or ask a plainer question",
                example,
            )
        )
    return StageResult("repeatability", findings, figures)

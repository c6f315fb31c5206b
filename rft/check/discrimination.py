"""Discrimination: does a good answer outscore a bad one?

Bad answers are the golden cases' own, and references that were corrupted, shuffled or taken from another
task. The figure is the AUC; pairs of the same task are counted apart, as only these matter to a group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rft.check.answers import Answer
from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult, quoted
from rft.check.probes import CONTENT
from rft.check.statistics import auc, auc_interval
from rft.types import Score


async def discrimination(bench: Bench) -> StageResult:
    """Scores good and bad answers and compares them."""
    answers = [one for one in await bench.answers() if one.kind == "golden" or CONTENT not in bench.blind_to]
    scores = await bench.judge([(one.task, one.text) for one in answers])
    known = [(one, score) for one, score in zip(answers, scores, strict=True) if score.ok]
    if {one.good for one, _ in known} != {True, False}:
        why = "needs answers known to be good and others known to be bad; add golden cases of both kinds"
        return StageResult("discrimination", skipped=why)
    by_task = _by_task(known)
    overall = auc_interval(list(by_task.values()), bench.seed)
    figures: dict[str, float | None] = {
        "auc": overall.mean,
        "auc_low": overall.low,
        "auc_high": overall.high,
        "pairwise_win_rate": _win_rate(by_task),
        "false_fail": _share_of_good_below_middle(bench, known),
        **{f"false_pass/{kind}": share for kind, share in _false_passes(bench, known).items()},
    }
    thresholds = bench.thresholds
    if overall.mean >= thresholds.auc_warn:
        return StageResult("discrimination", figures=figures)
    worst = min((one for one in known if one[0].good), key=lambda pair: float(pair[1]))
    best = max((one for one in known if not one[0].good), key=lambda pair: float(pair[1]))
    interval = f"AUC {overall}" if np.isfinite(overall.low) else "one task, so no interval"
    finding = Finding(
        "fail" if overall.mean < thresholds.auc_fail else "warn",
        f"a good answer outscores a bad one {overall.mean:.0%} of the time, ties counted half "
        f"({interval}; a coin gets 50%)",
        "look at the examples: make the score depend on whether the answer is right, or mend the references",
        [_told(*worst), _told(*best)],
    )
    return StageResult("discrimination", [finding], figures)


def _by_task(known: Sequence[tuple[Answer, Score]]) -> dict[str, tuple[list[float], list[float]]]:
    found: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for one, score in known:
        found[one.task.id][0 if one.good else 1].append(float(score))
    return dict(found)


def _win_rate(by_task: dict[str, tuple[list[float], list[float]]]) -> float | None:
    """Mean over tasks of the AUC among the task's own answers."""
    rates = [auc(good, bad) for good, bad in by_task.values() if good and bad]
    return float(np.mean(rates)) if rates else None


def _middle(bench: Bench, known: Sequence[tuple[Answer, Score]]) -> float:
    good, bad = ([float(s) for one, s in known if one.good is kind] for kind in (True, False))
    return (float(np.median(good)) + float(np.median(bad))) / 2


def _share_of_good_below_middle(bench: Bench, known: Sequence[tuple[Answer, Score]]) -> float:
    """False fails: good answers on the bad side of the point half way between the two medians."""
    middle = _middle(bench, known)
    return float(np.mean([float(score) < middle for one, score in known if one.good]))


def _false_passes(bench: Bench, known: Sequence[tuple[Answer, Score]]) -> dict[str, float]:
    middle = _middle(bench, known)
    kinds = dict.fromkeys(one.kind for one, _ in known if not one.good)
    return {
        kind: float(np.mean([float(s) >= middle for one, s in known if not one.good and one.kind == kind]))
        for kind in kinds
    }


def _told(answer: Answer, score: Score) -> str:
    worth = "good" if answer.good else "bad"
    return f"{worth} ({answer.kind}): {quoted(answer.text)} -> {float(score):.3g}"

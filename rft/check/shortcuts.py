"""Shortcuts: does the score follow something cheaper than the answer's worth?

Length, lists, code fences and hedges are compared with the score among answers to the same task (values are
centred by task), holding fixed whether the reference occurs in the answer, so that "long answers are right
more often" is not taken for "length pays". Also: references that stand in their own prompts, a composite that
one part decides, and failing that goes with length, which masks the very answers it should push down.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rft.check.answers import plain_text
from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult
from rft.check.statistics import partial_spearman, spearman
from rft.types import Rollout, Score, Task

_LIST_ITEM = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s", re.MULTILINE)
_HEDGE = re.compile(r"\b(?:maybe|perhaps|possibly|might|could be|I think|it seems|probably)\b", re.IGNORECASE)

FEATURES: dict[str, Callable[[str], float]] = {
    "length": lambda text: float(len(text)),
    "lists": lambda text: float(len(_LIST_ITEM.findall(text))),
    "code_fences": lambda text: float(text.count("```")),
    "hedges": lambda text: float(len(_HEDGE.findall(text))),
}
_FEW_FAILURES = 5


async def shortcuts(bench: Bench) -> StageResult:
    """Looks at tasks for leaks and, given enough rollouts, at what the scores go with."""
    findings = list(_leaks(bench))
    scored = await bench.scored()
    if len(scored) < bench.thresholds.min_rollouts:
        need = bench.thresholds.min_rollouts
        why = f"correlations need {need} rollouts, got {len(scored)}; give --rollouts RUN, or --policy"
        return StageResult("shortcuts", findings, skipped=why)
    figures: dict[str, float | None] = {}
    findings += _selective_failures(scored, figures)
    valid = [(rollout, float(score)) for rollout, score in scored if score.ok]
    if len(valid) >= bench.thresholds.min_rollouts / 2:
        findings += _correlations(bench, valid, figures)
    findings += _dominance(bench, scored, figures)
    return StageResult("shortcuts", findings, figures)


def _leaks(bench: Bench) -> Iterable[Finding]:
    leaking = [task for task in bench.tasks if _leaks_in(task)]
    if bench.tasks and len(leaking) / len(bench.tasks) > bench.thresholds.leak_warn:
        yield Finding(
            "warn",
            f"{len(leaking)} of {len(bench.tasks)} prompts hold their own reference, e.g. {leaking[0].id}",
            "copying the prompt may be all it takes: take the answer out of the prompt, or, where it belongs "
            "there (a text to search), see that echoing the whole prompt does not pay",
        )


def _leaks_in(task: Task) -> bool:
    reference = "" if task.reference is None else plain_text(task.reference).strip()
    if len(reference) < 4:  # a letter or a small number is in any prompt
        return False
    asked = " ".join(message.content for message in task.messages)
    return re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", asked) is not None


def _correlations(
    bench: Bench, valid: Sequence[tuple[Rollout, float]], figures: dict[str, float | None]
) -> Iterable[Finding]:
    groups = [rollout.group_id for rollout, _ in valid]
    scores = _centred([score for _, score in valid], groups)
    right = [_centred([float(_holds_reference(rollout)) for rollout, _ in valid], groups)]
    for name, measure in FEATURES.items():
        feature = _centred([measure(rollout.text) for rollout, _ in valid], groups)
        rho = partial_spearman(scores, feature, right)
        figures[f"rho/{name}"] = None if np.isnan(rho) else rho
        if abs(rho) > bench.thresholds.shortcut_warn:
            more = "more" if rho > 0 else "less"
            yield Finding(
                "warn",
                f"scores rise with {more} {name.replace('_', ' ')} (partial rank correlation {rho:+.2f} over "
                f"{len(valid)} answers, the reference's presence held fixed)",
                "training will find this out: score what the answer says, or weigh in a limit against it "
                "(length, overlong, format)",
            )


def _centred(values: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Values less their group's mean, so that easy and hard tasks are alike; unchanged for lone members."""
    by_group: dict[str, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        by_group[group].append(value)
    if all(len(members) == 1 for members in by_group.values()):
        return list(values)
    return [value - float(np.mean(by_group[group])) for value, group in zip(values, groups, strict=True)]


def _holds_reference(rollout: Rollout) -> bool:
    reference = rollout.task.reference
    return reference is not None and plain_text(reference).casefold() in rollout.text.casefold()


def _selective_failures(
    scored: Sequence[tuple[Rollout, Score]], figures: dict[str, float | None]
) -> Iterable[Finding]:
    failed = [float(score.status == "failed") for _, score in scored]
    figures["failed"] = float(np.mean(failed))
    if sum(failed) < _FEW_FAILURES:
        return
    rho = spearman(failed, [float(len(rollout.text)) for rollout, _ in scored])
    figures["rho/failed_length"] = None if np.isnan(rho) else rho
    if abs(rho) > 0.2:
        which = "long" if rho > 0 else "short"
        example = next(score.explain() for _, score in scored if score.status == "failed")
        yield Finding(
            "fail",
            f"{figures['failed']:.0%} of the answers have no score, and more often {which} ones "
            f"(rank correlation {rho:+.2f}), e.g. {example}",
            "masked answers are never pushed down, so a model drifts to them: raise the limit they hit, or "
            "score them low with a reason",
        )


def _dominance(
    bench: Bench, scored: Sequence[tuple[Rollout, Score]], figures: dict[str, float | None]
) -> Iterable[Finding]:
    """How much of a composite's movement within tasks each part explains by itself."""
    valid = [(rollout, score) for rollout, score in scored if score.ok and score.parts]
    names = {name for _, score in valid for name, part in score.parts.items() if part.ok}
    if len(names) < 2:
        return
    for name in sorted(names):
        with_part = [(r, s) for r, s in valid if name in s.parts and s.parts[name].ok]
        groups = [rollout.group_id for rollout, _ in with_part]
        total = np.array(_centred([float(score) for _, score in with_part], groups))
        part = np.array(_centred([float(score.parts[name]) for _, score in with_part], groups))
        if total.std() < 1e-9 or part.std() < 1e-9:
            figures[f"explained/{name}"] = 0.0
            continue
        explained = float(np.corrcoef(total, part)[0, 1] ** 2)
        figures[f"explained/{name}"] = explained
        if explained > bench.thresholds.dominance_warn:
            yield Finding(
                "warn",
                f"part {name} alone explains {explained:.0%} of how the score moves within a task",
                "give the other parts more weight, or see why they hardly vary",
            )

"""Adversarial: does anything that is no answer pay as much as a good one, or end without a score?

A probe hits where it reaches the median good answer. An evaluator may say what it cannot see through:
`blind_to = frozenset({"negated"})` makes that probe a note, to be made up for by another part of a composite.
A probe without a score is worse than it looks: it is masked, so what provokes it is never pushed down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rft.check.answers import Answer, plain_text
from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult, quoted
from rft.check.probes import CONTENT, PROBES, Probe, Trial
from rft.types import Score, Task

MOST_TRIALS = 8
_LISTED = 30
_CANDIDATES = 3


@dataclass(frozen=True)
class _Shot:
    """One probe on one task, beside the good answer it is compared with."""

    probe: Probe
    trial: Trial
    text: str
    score: Score
    good: Score


async def adversarial(bench: Bench) -> StageResult:
    """Fires every probe at a few tasks."""
    trials = await _with_wrong_answers(bench, trials_of(await bench.good_answers()))
    if not trials:
        why = (
            "no answer known to be good; add golden cases, or check with a recipe whose tasks have references"
        )
        return StageResult("adversarial", skipped=why)
    shots = await _fire(bench, trials)
    judged = [shot for shot in shots if shot.good.ok]
    if not judged:
        why = f"no good answer could be scored, e.g. {shots[0].good.explain()}"
        todo = "the instrument does not work here; see the golden stage"
        return StageResult("adversarial", [Finding("fail", why, todo)])
    median = float(np.median([float(shot.good) for shot in judged]))
    findings = [*_unscored(judged), *_hits(bench, judged, median)]
    tried = {shot.probe.name for shot in shots}
    figures = {"probes": float(len(tried)), "tasks": float(len(trials)), "median_good": median}
    return StageResult("adversarial", findings, figures)


def trials_of(good: Sequence[Answer], most: int = MOST_TRIALS) -> list[Trial]:
    """What probes need, for the first tasks."""
    answers = {one.task.id: _answer_of(one) for one in good}
    trials = []
    for one in good[:most]:
        mine = answers[one.task.id]
        others = [text for text in dict.fromkeys(answers.values()) if _apart(text, mine)]
        trials.append(Trial(one.task, one.text, mine, others[:_LISTED]))
    return trials


def _answer_of(good: Answer) -> str:
    reference = good.task.reference
    return good.text if reference is None or len(plain_text(reference)) > 200 else plain_text(reference)


def _apart(one: str, other: str) -> bool:
    """Whether neither text holds the other, spaces and signs aside: "1 2" is not apart from "[1, 2]"."""
    first, second = ("".join(re.findall(r"\w+", text.casefold())) for text in (one, other))
    return bool(first) and first not in second and second not in first


async def _with_wrong_answers(bench: Bench, trials: Sequence[Trial]) -> list[Trial]:
    """Puts first, of a few other tasks' answers, the one that earns least here.

    Two tasks may have the same answer in different words (1/2 and 0.5). Where all of them earn full marks,
    the evaluator does not care.
    """
    if bench.grouped:
        return list(trials)
    few = [(trial, text) for trial in trials for text in trial.others[:_CANDIDATES]]
    scores = await bench.judge([(trial.task, text) for trial, text in few])
    earned = {
        (trial.task.id, text): float(score) if score.ok else float("-inf")
        for (trial, text), score in zip(few, scores, strict=True)
    }

    def price(trial: Trial, text: str) -> float:
        return earned.get((trial.task.id, text), float("inf"))

    return [
        replace(trial, others=sorted(trial.others, key=lambda text: price(trial, text))) for trial in trials
    ]


async def _fire(bench: Bench, trials: Sequence[Trial]) -> list[_Shot]:
    """Scores of all probes. Where answers are judged together, each probe meets the good answer alone."""
    texts = [
        (probe, trial, text)
        for trial in trials[: 2 if bench.grouped else None]
        for probe in PROBES.values()
        if (text := probe.make(trial)) is not None and text != trial.good
    ]
    if bench.grouped:
        asked: list[tuple[Task, str]] = []
        for number, (_, trial, text) in enumerate(texts):
            task = replace(trial.task, id=f"{trial.task.id}-{number}")
            asked += [(task, trial.good), (task, text)]
        scores = await bench.judge(asked)
        goods, probed = scores[::2], scores[1::2]
    else:
        of_good = await bench.judge([(trial.task, trial.good) for trial in trials])
        by_task = {trial.task.id: score for trial, score in zip(trials, of_good, strict=True)}
        probed = await bench.judge([(trial.task, text) for _, trial, text in texts])
        goods = [by_task[trial.task.id] for _, trial, _ in texts]
    return [
        _Shot(probe, trial, text, score, good)
        for (probe, trial, text), score, good in zip(texts, probed, goods, strict=True)
    ]


def _unscored(shots: Sequence[_Shot]) -> Iterable[Finding]:
    failed = [shot for shot in shots if shot.score.status == "failed"]
    if failed:
        names = ", ".join(dict.fromkeys(shot.probe.name for shot in failed))
        yield Finding(
            "fail",
            f"{names}: no score ({failed[0].score.explain()}), though a good answer to the same task has one",
            "what the model did wrong is a low score with a reason; a failure is masked, so a model that "
            "drifts to such answers is never pushed away from them",
            _told(failed),
        )
    skipped = [shot for shot in shots if not shot.score.ok and shot.score.failure is None]
    if skipped:
        names = ", ".join(dict.fromkeys(shot.probe.name for shot in skipped))
        yield Finding(
            "warn",
            f"{names}: left unjudged ({skipped[0].score.explain()})",
            "skip only for what is wrong with the task; a bad answer gets a low score with a reason",
            _told(skipped),
        )


def _hits(bench: Bench, shots: Sequence[_Shot], median: float) -> Iterable[Finding]:
    must = [shot for shot in shots if shot.probe.must_fail and shot.score.ok]
    hits = [shot for shot in must if float(shot.score) >= _bar(bench, shot, median)]
    blind = bench.blind_to
    declared = [shot for shot in hits if CONTENT in blind or shot.probe.name in blind]
    if declared:
        names = ", ".join(dict.fromkeys(shot.probe.name for shot in declared))
        what = "form alone is judged, so " if CONTENT in blind else ""
        yield Finding("note", f"declared in blind_to: {what}{names} may earn full marks")
    undeclared = [shot for shot in hits if shot not in declared]
    free = _free_tasks(undeclared, must)
    tasks = {shot.trial.task.id for shot in must}
    if free and len(free) * 2 > len(tasks):
        yield Finding(
            "fail",
            f"on {len(free)} of {len(tasks)} tasks most probes score no less than a good answer "
            f"({median:.3g})",
            "the score does not depend on what is answered; compare the answer with the reference, or say "
            'blind_to = frozenset({"content"}) if form is all it shall judge',
            _told(undeclared),
        )
        return
    if free:
        yield Finding(
            "warn",
            f"on {len(free)} of the tasks most probes score no less than a good answer, e.g. {free[0]}",
            "see that such tasks are few: where any answer is right, nothing is learnt",
            _told([shot for shot in undeclared if shot.trial.task.id in free]),
        )
    tried = [shot for shot in must if shot.trial.task.id not in free]
    open_hits = [shot for shot in undeclared if shot.trial.task.id not in free]
    for name in dict.fromkeys(shot.probe.name for shot in open_hits):
        yield _hit(bench, [s for s in open_hits if s.probe.name == name], tried, median)


def _free_tasks(hits: Sequence[_Shot], fired: Sequence[_Shot]) -> list[str]:
    """Tasks on which more than half of the probes hit: anything is right there."""
    tasks = dict.fromkeys(shot.trial.task.id for shot in fired)
    share = {
        task: sum(s.trial.task.id == task for s in hits) / sum(s.trial.task.id == task for s in fired)
        for task in tasks
    }
    return [task for task in tasks if share[task] > 0.5]


def _hit(bench: Bench, hits: Sequence[_Shot], fired: Sequence[_Shot], median: float) -> Finding:
    first = hits[0]
    tried = sum(shot.probe.name == first.probe.name for shot in fired)
    return Finding(
        "fail" if len(hits) / tried > bench.thresholds.probe_fail else "warn",
        f"{first.probe.name} scores {float(first.score) + 0.0:.3g} where a good answer gets "
        f"{_bar(bench, first, median):.3g}, on {len(hits)} of {tried} tasks",
        first.probe.todo,
        _told(hits),
    )


def _bar(bench: Bench, shot: _Shot, median: float) -> float:
    """What a probe must stay below: the median good answer, or its own rival's where a group is ranked."""
    return float(shot.good) if bench.grouped else median


def _told(shots: Sequence[_Shot]) -> list[str]:
    return [
        f"{shot.probe.name}: {quoted(shot.text)} -> "
        + (f"{float(shot.score) + 0.0:.3g}" if shot.score.ok else shot.score.explain())
        for shot in shots[:3]
    ]

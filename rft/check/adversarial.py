"""Adversarial: does anything that is no answer pay as much as a good one, or end without a score?

A probe hits where it reaches the median good answer. An evaluator may say what it cannot see through:
`blind_to = frozenset({"negated"})` makes that probe a note, to be made up for by another part of a composite.
A probe without a score is worse than it looks: it is masked, so what provokes it is never pushed down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rft.check.bench import Answer, Bench, plain_text
from rft.check.findings import Finding, StageResult, quoted
from rft.check.probes import CONTENT, PROBES, Probe, Trial
from rft.types import Score, Task

MOST_TRIALS = 8
_LISTED = 30


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
    trials = trials_of(await bench.good_answers())
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
    """Whether neither text holds the other: "4" is no wrong answer where "4.0" or "14" is right."""
    return (
        bool(one.strip())
        and one.casefold() not in other.casefold()
        and other.casefold() not in one.casefold()
    )


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
    open_hits = [shot for shot in hits if shot not in declared]
    if len({shot.probe.name for shot in open_hits}) > len({shot.probe.name for shot in must}) / 2:
        hit, fired = ({shot.probe.name for shot in shots} for shots in (open_hits, must))
        yield Finding(
            "fail",
            f"{len(hit)} of {len(fired)} probes score no less than a good answer ({median:.3g})",
            "the score does not depend on what is answered; compare the answer with the reference, or say "
            'blind_to = frozenset({"content"}) if form is all it shall judge',
            _told(open_hits),
        )
        return
    for name in dict.fromkeys(shot.probe.name for shot in open_hits):
        mine = [shot for shot in open_hits if shot.probe.name == name]
        tried = sum(shot.probe.name == name for shot in must)
        share = len(mine) / tried
        bar = _bar(bench, mine[0], median)
        yield Finding(
            "fail" if share > bench.thresholds.probe_fail else "warn",
            f"{name} scores {float(mine[0].score):.3g} where a good answer gets {bar:.3g}, "
            f"on {len(mine)} of {tried} tasks",
            mine[0].probe.todo,
            _told(mine),
        )


def _bar(bench: Bench, shot: _Shot, median: float) -> float:
    """What a probe must stay below: the median good answer, or its own rival's where a group is ranked."""
    return float(shot.good) if bench.grouped else median


def _told(shots: Sequence[_Shot]) -> list[str]:
    return [
        f"{shot.probe.name}: {quoted(shot.text)} -> "
        + (f"{float(shot.score):.3g}" if shot.score.ok else shot.score.explain())
        for shot in shots[:3]
    ]

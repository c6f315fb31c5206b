"""Contract: does the evaluator keep the promises that training relies on?

A finite number within the range, a reason for what is not perfect, values that can be stored, a rollout left
as it was, the task's fields that it reads, and, for process mode, an object that can travel.
"""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterable, Sequence

from rft.check.answers import Answer, completions, plain_text, rollout, task_of
from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult, quoted
from rft.evaluator import own_cases
from rft.types import Rollout, Score, Task

_TELLING = 4
"""Characters from which on a reference that shows up in a reason is no coincidence."""


async def contract(bench: Bench) -> StageResult:
    """Scores every known answer once and looks at what came back, and at what became of the rollout."""
    tried = _tried(bench, await bench.answers())
    if not tried:
        why = "nothing to score; add golden cases, or check with a recipe whose tasks have references"
        return StageResult("contract", list(_standing(bench)), skipped=why)
    given = [rollout(task, text, index) for index, (task, text) in enumerate(tried)]
    before = copy.deepcopy(given)
    scores = await bench.score(bench.evaluator, given)
    findings = [
        *_standing(bench),
        *_broken(given, scores),
        *_changed(before, given),
        *_unstorable(scores),
        *_reasons(bench, given, scores),
    ]
    return StageResult("contract", findings, {"scored": float(sum(score.ok for score in scores))})


def _tried(bench: Bench, answers: Sequence[Answer]) -> list[tuple[Task, str]]:
    """Every answer that is known, also those of cases whose expected score is neither high nor low."""
    cases = [case for case in own_cases(bench.evaluator) if case.expect != "unscored"]
    known = [(task_of(case), text) for case in cases for text in completions(case)]
    return known + [(one.task, one.text) for one in answers if one.kind != "golden"]


def _standing(bench: Bench) -> Iterable[Finding]:
    """What can be said without scoring anything."""
    evaluator = bench.evaluator
    for name in sorted(evaluator.requires):
        lacking = [task for task in bench.tasks if not _has(task, name)]
        if lacking:
            share = f"{len(lacking)} of {len(bench.tasks)}"
            yield Finding(
                "fail",
                f"requires {name!r}, which {share} tasks lack, e.g. {lacking[0].id}",
                f"map a column to it (data.train.columns: {{{name}: ...}}), or do without",
            )
    if evaluator.execution == "process":
        try:
            pickle.loads(pickle.dumps(evaluator))
        except Exception as error:
            yield Finding(
                "fail",
                f'execution is "process", but it cannot be pickled ({type(error).__name__}: {error})',
                "define it at the top level of a module and open connections and models in `setup`",
            )


def _has(task: Task, name: str) -> bool:
    try:
        return task.field(name) is not None
    except KeyError:
        return False


def _broken(given: Sequence[Rollout], scores: Sequence[Score]) -> Iterable[Finding]:
    todo = {
        "bad_response": "return a finite number within `range`, or declare the range it really has",
        "bug": "this is the evaluator's own code: fix it; a few of these stop a run",
    }
    for kind in dict.fromkeys(score.failure.kind for score in scores if score.failure):
        failed = [i for i, score in enumerate(scores) if score.failure and score.failure.kind == kind]
        yield Finding(
            "fail",
            f"{len(failed)} of {len(scores)} known answers have no score: {scores[failed[0]].explain()}",
            todo.get(kind, "see that what it calls is up and reachable from here, then check again"),
            [quoted(given[i].text) for i in failed[:3]],
        )


def _changed(before: Sequence[Rollout], after: Sequence[Rollout]) -> Iterable[Finding]:
    for old, new in zip(before, after, strict=True):
        if old != new:
            yield Finding(
                "fail",
                f"evaluating changed the rollout itself (answer {quoted(old.text)})",
                "copy what is to be changed; others score and store the same object",
            )
            return


def _unstorable(scores: Sequence[Score]) -> Iterable[Finding]:
    for score in scores:
        try:
            stored = json.loads(json.dumps([score.reason, dict(score.metrics), score.turn_values]))
            if stored[0] != score.reason or stored[1] != dict(score.metrics):
                raise ValueError("it comes back as something else")
        except (TypeError, ValueError) as error:
            yield Finding(
                "fail",
                f"reason or metrics cannot be stored as JSON: {error}",
                "give a text as reason and plain floats, by name, as metrics",
            )
            return


def _reasons(bench: Bench, given: Sequence[Rollout], scores: Sequence[Score]) -> Iterable[Finding]:
    top = bench.evaluator.range[1]
    lost = [(one, score) for one, score in zip(given, scores, strict=True) if score.ok and float(score) < top]
    silent = [one for one, score in lost if not score.reason and not score.parts and not score.metrics]
    if silent:
        yield Finding(
            "warn",
            f"{len(silent)} of {len(lost)} answers short of full marks got no reason",
            'return Score(value, reason="...") : reasons are how people find out what the model learns',
            [quoted(one.text) for one in silent[:2]],
        )
    telling = [
        (one, score)
        for one, score in lost
        if score.reason
        and one.task.reference is not None
        and len(reference := plain_text(one.task.reference)) >= _TELLING
        and reference in score.reason
        and reference not in one.text
    ]
    if telling:
        one, score = telling[0]
        yield Finding(
            "warn",
            f"the reason of a wrong answer gives the reference away: {quoted(score.reason or '')}",
            "harmless while only people read it; keep it from whatever the model sees, such as a second turn",
        )

"""Golden: do the cases that travel with the evaluator hold? They are its unit tests."""

from __future__ import annotations

from dataclasses import replace

from rft.check.answers import completions, rollout, task_of
from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult, quoted
from rft.evaluator import Case, with_options
from rft.types import Score

_SHOWN = 5


async def golden(bench: Bench) -> StageResult:
    """Scores every golden case, each with the options it is about."""
    cases = bench.evaluator.golden()
    if not cases:
        todo = (
            "add some: Case(prompt, completion, expect=...), for answers that are right, wrong and in between"
        )
        return StageResult("golden", [Finding("warn", "no golden cases", todo)], {"cases": 0.0})
    broken, findings = [], []
    for number, case in enumerate(cases):
        try:
            evaluator = with_options(bench.evaluator, case.config or {})
        except (ValueError, TypeError) as error:
            said = " ".join(str(error).split())
            findings.append(
                Finding(
                    "fail", f"case {number + 1} has options that do not fit: {said}", "correct its `config`"
                )
            )
            continue
        task = replace(task_of(case), id=f"golden-{number}")  # a group of its own
        given = [rollout(task, text, index) for index, text in enumerate(completions(case))]
        scores = await bench.score(evaluator, given)
        if not case.holds(*scores):
            broken.append(_told(case, scores))
    if broken:
        findings.append(
            Finding(
                "fail",
                f"{len(broken)} of {len(cases)} golden cases do not hold, e.g. {broken[0]}",
                "correct the evaluator, or the case if it was wrong to expect that",
                broken[:_SHOWN],
            )
        )
    if len(cases) < bench.thresholds.min_cases:
        findings.append(
            Finding(
                "warn",
                f"{len(cases)} golden case{'s' if len(cases) > 1 else ''}",
                f"add cases until there are {bench.thresholds.min_cases}; every surprise is a good one",
            )
        )
    return StageResult("golden", findings, {"cases": float(len(cases)), "broken": float(len(broken))})


def _told(case: Case, scores: list[Score]) -> str:
    got = ", ".join(f"{float(score):.4g}" if score.ok else score.explain() for score in scores)
    return f"{quoted(completions(case)[0])}: expected {case.expect}, got {got}"

"""Invariance: do edits that mean nothing leave the score alone, and does a group's order?"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from rft.check.answers import rollout
from rft.check.bench import Bench
from rft.check.findings import Finding, StageResult, quoted
from rft.types import Score

_SAME = 1e-6

EDITS: dict[str, Callable[[str], str]] = {
    "spaces around": lambda text: f"  {text} ",
    "a line break after": lambda text: f"{text}\n",
    "Windows line breaks": lambda text: text.replace("\n", "\r\n"),
    "decomposed accents": lambda text: unicodedata.normalize("NFD", text),
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "1/2 as 0.5": lambda text: re.sub(r"(?<![\w/.])1/2(?![\w/.])", "0.5", text),
}
"""None of them should matter; where one does (a format that is counted in bytes), it is a warning."""


async def invariance(bench: Bench) -> StageResult:
    """Edits good answers; judges groups in another order."""
    good = await bench.good_answers()
    if not good:
        return StageResult("invariance", skipped="no answer known to be good; add golden cases")
    findings = []
    figures: dict[str, float | None] = {}
    if bench.grouped:
        moved, members = await _reordered(bench)
        figures["order_changed"] = moved / members if members else None
        if moved:
            findings.append(
                Finding(
                    "fail" if bench.evaluator.deterministic else "warn",
                    f"{moved} of {members} scores changed when the group came in another order",
                    "return verdicts in the order of the rollouts given, and ask a judge in both orders",
                )
            )
    else:
        edited = [
            (one, name, text)
            for one in good
            for name, edit in EDITS.items()
            if (text := edit(one.text)) != one.text
        ]
        before = await bench.judge([(one.task, one.text) for one in good])
        was = dict(zip([one.task.id for one in good], before, strict=True))
        after = await bench.judge([(one.task, text) for one, _, text in edited])
        changed = [
            (one, name, was[one.task.id], score)
            for (one, name, _), score in zip(edited, after, strict=True)
            if was[one.task.id].ok and not _equal(was[one.task.id], score)
        ]
        share = len(changed) / len(edited) if edited else 0.0
        figures |= {"edits": float(len(edited)), "changed": share}
        if share > bench.thresholds.changed_warn:
            names = ", ".join(dict.fromkeys(name for _, name, _, _ in changed))
            findings.append(
                Finding(
                    "warn",
                    f"{share:.0%} of edits without meaning changed the score ({names})",
                    "normalise the answer before comparing: strip it, unify spaces, line breaks and accents "
                    '(unicodedata.normalize("NFKC", text))',
                    [
                        f"{name}: {quoted(one.text)} went from {_shown(old)} to {_shown(new)}"
                        for one, name, old, new in changed[:3]
                    ],
                )
            )
    return StageResult("invariance", findings, figures)


async def _reordered(bench: Bench) -> tuple[int, int]:
    """(changed, compared) scores when each task's answers are given backwards."""
    moved = members = 0
    answers = await bench.answers()
    for task in {one.task.id: one.task for one in answers}.values():
        texts = list(dict.fromkeys(one.text for one in answers if one.task.id == task.id))
        there = [rollout(task, text, index) for index, text in enumerate(texts)]
        back = [replace(one, id=f"{task.id}/back-{i}") for i, one in enumerate(reversed(there))]
        first = await bench.score(bench.evaluator, there)
        second = (await bench.score(bench.evaluator, back))[::-1]
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if a.ok and b.ok]
        moved += sum(not _equal(a, b) for a, b in pairs)
        members += len(pairs)
    return moved, members


def _equal(one: Score, other: Score) -> bool:
    return one.ok and other.ok and abs(float(one) - float(other)) <= _SAME


def _shown(score: Score) -> str:
    return f"{float(score):.3g}" if score.ok else score.explain()

"""Golden cases scored again while a run goes on: is it the instrument that changed, or the rollouts?

A live API can drift without an error: a new model behind it, a changed prompt. And when evaluations fail,
the same failures may come from the service or from what the policy writes by now. Answers whose score is
known tell these apart. They go the way of every rollout (slots, retries, breaker), but past the cache.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rft.evaluator import Case, case_rollouts, own_cases
from rft.scoring.cache import asked_anew
from rft.scoring.runner import ScoringRunner
from rft.types import Score


@dataclass(frozen=True)
class Round:
    """What one round of golden cases found.

    >>> found = Round(held=3, drifted=["judge, case 2 ('4'): expected 1.0, got 0.4"])
    >>> found.all_held, str(found)
    (False, "1 of 4 golden cases did not hold: judge, case 2 ('4'): expected 1.0, got 0.4")
    """

    held: int = 0
    failed: list[str] | tuple[str, ...] = ()
    """Cases without the number they should have: the instrument is broken."""
    drifted: list[str] | tuple[str, ...] = ()
    """Cases with another score than expected: the instrument has changed."""
    evaluations: int = 0

    @property
    def all_held(self) -> bool:
        """Whether every case had the score it should have."""
        return not self.failed and not self.drifted

    @property
    def total(self) -> int:
        """Cases scored."""
        return self.held + len(self.failed) + len(self.drifted)

    def __str__(self) -> str:
        if self.all_held:
            return f"all {self.total} golden cases hold"
        wrong = [*self.failed, *self.drifted]
        return f"{len(wrong)} of {self.total} golden cases did not hold: {'; '.join(wrong[:3])}"


class Canaries:
    """The golden cases of an evaluator and of its parts, those about their present options.

    Raises DataError for a file of cases that cannot be read.
    """

    def __init__(self, runner: ScoringRunner) -> None:
        self._cases = [(one, case) for one in runner.everyone() for case in own_cases(one.evaluator)]

    def __len__(self) -> int:
        return len(self._cases)

    async def score(self) -> Round:
        """Scores all cases at once."""
        with asked_anew():
            results = await asyncio.gather(
                *(
                    _scores(runner, case, f"golden-{number}")
                    for number, (runner, case) in enumerate(self._cases)
                )
            )
        held, evaluations = 0, 0
        failed: list[str] = []
        drifted: list[str] = []
        for number, ((runner, case), scores) in enumerate(zip(self._cases, results, strict=True), 1):
            evaluations += len(scores)
            if case.holds(*scores):
                held += 1
                continue
            told = (
                f"{runner.name}, case {number} ({_short(case)}): expected {case.expect}, got {_told(scores)}"
            )
            lost = case.expect != "unscored" and not all(score.ok for score in scores)
            (failed if lost else drifted).append(told)
        return Round(held, failed, drifted, evaluations)


async def _scores(runner: ScoringRunner, case: Case, name: str) -> list[Score]:
    rollouts = case_rollouts(case, name)
    return await runner.settle(rollouts, await asyncio.gather(*map(runner.score, rollouts)))


def _short(case: Case) -> str:
    text = case.completion if isinstance(case.completion, str) else case.completion[0]
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _told(scores: list[Score]) -> str:
    return ", ".join(f"{float(score):.4g}" if score.ok else score.explain() for score in scores)

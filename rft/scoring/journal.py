"""What was paid for since the last checkpoint, so that a step that is done again does not pay twice.

A run that goes on after a kill makes the same rollouts again: same place, same seed, same weights, same
tokens. Their verdicts come from here as they were, price, seconds and attempts included, so that the run's
accounts are right too. That holds for evaluators that are not deterministic as well: here it is the same
evaluation, where the cache answers another one about the same words. A rollout that differs in anything is
judged anew, and so is whatever had no number. While a run is not killed the journal answers
nothing: only what was there when it was opened counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from rft.scoring.cache import all_numbers, asking_anew, cache_key
from rft.scoring.verdicts import VerdictFile
from rft.types import Cost, Rollout, Score

Judge = Callable[[], Awaitable[list[Score]]]


class Journal:
    """A file of evaluations that were made. Belongs to one run.

    Args:
        path: the SQLite file.
        note: is told, in a sentence, when the file was damaged or cannot be used.
        worth_s: a deterministic evaluator's verdict that came quicker and cost nothing is not kept.
    """

    def __init__(
        self, path: Path, note: Callable[[str], None] = lambda text: None, *, worth_s: float = 0.002
    ) -> None:
        self._file = VerdictFile(path, f"the journal of verdicts {path}", note)
        self._worth_s = worth_s
        self._opened_at = self._file.newest

    async def replay(
        self, who: str, deterministic: bool, rollouts: Sequence[Rollout], judge: Judge
    ) -> tuple[list[Score], Cost]:
        """Verdicts on these rollouts, one or a group: as given before, or else by `judge`.

        Golden cases are always judged. Also returns what those given before had cost.

        Args:
            who: the evaluator's fingerprint, and its place where one may occur several times.
        """
        if asking_anew():
            return await judge(), Cost()
        key = _key(who, rollouts)
        known = self._file.get(key, up_to=self._opened_at)
        if known is not None:
            return known, sum((score.cost for score in known), Cost())
        scores = await judge()
        dear = any(score.latency_s >= self._worth_s or score.cost != Cost() for score in scores)
        if (dear or not deterministic) and all(map(all_numbers, scores)):
            self._file.put(key, scores)
        return scores, Cost()

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def _key(who: str, rollouts: Sequence[Rollout]) -> str:
    hashed = hashlib.sha256()
    for rollout in rollouts:
        place = (rollout.id, rollout.seed, rollout.weight_version)  # a seed is made from the step, too
        hashed.update(f"{cache_key(who, rollout)} {place}\n".encode())
    return hashed.hexdigest()

"""Verdicts that are known already: one call for rollouts that are the same, in this run or in all of them.

A policy that is sure of itself gives one answer many times, and greedy held-out answers come again at every
evaluation. Identical rollouts that are scored at the same moment share one call; a verdict that took long
enough to be worth it is kept in an SQLite file, which several processes may use at once. Only numbers are
kept: a failure may be over next time, and a composite is kept only when all its parts are numbers.

The key holds everything an evaluator may read from a rollout, and leaves out which sample it is and who
sampled it. It is a cache: a run goes on without its file (rft/scoring/verdicts.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rft.scoring.verdicts import VerdictFile
from rft.types import Cost, Rollout, Score

_anew: ContextVar[bool] = ContextVar("anew", default=False)


@contextmanager
def asked_anew() -> Iterator[None]:
    """Within, nothing is looked up and nothing kept: golden cases shall reach the service itself."""
    token = _anew.set(True)
    try:
        yield
    finally:
        _anew.reset(token)


def asking_anew() -> bool:
    """Whether this is said within `asked_anew`."""
    return _anew.get()


def cache_key(fingerprint: str, rollout: Rollout) -> str:
    """64 hex digits of the evaluator, the task, the conversation, its end and what the environment says."""
    task = rollout.task
    read = [
        fingerprint,
        [task.id, _plain(task.prompt), task.reference, task.metadata],
        [message.to_dict() for message in rollout.messages],
        [rollout.stop, rollout.rewards, rollout.env, rollout.metrics, rollout.num_tokens],
    ]
    # What is not JSON is told apart by its repr: at worst, two that are equal are judged twice.
    try:
        text = json.dumps(read, sort_keys=True, default=repr)
    except (TypeError, ValueError):
        text = repr(read)
    return hashlib.sha256(text.encode()).hexdigest()


class ScoreCache:
    """A file of verdicts, and the calls under way. Belongs to one event loop.

    Args:
        path: the SQLite file; its folder is made.
        note: is told, in a sentence, when the file was damaged or cannot be used.
        max_entries: the oldest beyond so many are dropped.
        worth_s: quicker verdicts are not kept: finding one takes about a tenth of a millisecond itself.
    """

    def __init__(
        self,
        path: Path,
        note: Callable[[str], None] = lambda text: None,
        *,
        max_entries: int = 100_000,
        worth_s: float = 0.002,
    ) -> None:
        self._file = VerdictFile(path, f"the score cache {path}", note, max_entries=max_entries)
        self._worth_s = worth_s
        self._under_way: dict[str, asyncio.Future[Score]] = {}

    async def once(self, key: str, judge: Callable[[], Awaitable[Score]]) -> Score:
        """The verdict kept under `key`, or that of a call under way, or that of `judge`.

        A verdict that was not called for costs nothing and says so (`cached`, no attempts). A call that is
        cancelled is made anew by one of those who waited for it; its failure is everybody's.
        """
        if asking_anew():
            return await judge()
        while (pending := self._under_way.get(key)) is not None:
            await asyncio.wait([pending])
            if not pending.cancelled():
                return _shared(pending.result())
        if (known := self._file.get(key)) is not None:
            return _shared(known[0])
        pending = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            score = await judge()
        except BaseException:
            pending.cancel()
            raise
        else:
            pending.set_result(score)
        finally:
            del self._under_way[key]
        if score.latency_s >= self._worth_s and all_numbers(score):
            self._file.put(key, [score])
        return score

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def _shared(score: Score) -> Score:
    return score.stamped(cost=Cost(), attempts=0, latency_s=0.0, cached=score.ok)


def all_numbers(score: Score) -> bool:
    """Whether it and all its parts are numbers: what is not may be one the next time."""
    return score.ok and all(map(all_numbers, score.parts.values()))


def _plain(prompt: Any) -> Any:
    return prompt if isinstance(prompt, str) else [message.to_dict() for message in prompt]

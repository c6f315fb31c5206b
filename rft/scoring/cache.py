"""Verdicts that are known already: one call for rollouts that are the same, in this run or in all of them.

A policy that is sure of itself gives one answer many times, and greedy held-out answers come again at every
evaluation. Identical rollouts that are scored at the same moment share one call; a verdict that took long
enough to be worth it is kept in an SQLite file, which several processes may use at once. Only numbers are
kept: a failure may be over next time, and a composite is kept only when all its parts are numbers.

The key holds everything an evaluator may read from a rollout, and leaves out which sample it is and who
sampled it. It is a cache: when its file is damaged it is made anew, when it cannot be used the run goes on
without, and nothing is flushed to the disk for its sake.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rft.types import Cost, Rollout, Score

_TABLE = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, score TEXT NOT NULL)"
_TRIM_EVERY = 1000
_LONGEST_ENTRY = 1 << 16
_anew: ContextVar[bool] = ContextVar("anew", default=False)


@contextmanager
def asked_anew() -> Iterator[None]:
    """Within, nothing is looked up and nothing kept: golden cases shall reach the service itself."""
    token = _anew.set(True)
    try:
        yield
    finally:
        _anew.reset(token)


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
        self.path = path
        self._note = note
        self._max_entries = max_entries
        self._worth_s = worth_s
        self._under_way: dict[str, asyncio.Future[Score]] = {}
        self._puts = 0
        self._database: sqlite3.Connection | None = None
        self._open()

    async def once(self, key: str, judge: Callable[[], Awaitable[Score]]) -> Score:
        """The verdict kept under `key`, or that of a call under way, or that of `judge`.

        A verdict that was not called for costs nothing and says so (`cached`, no attempts). A call that is
        cancelled is made anew by one of those who waited for it; its failure is everybody's.
        """
        if _anew.get():
            return await judge()
        while (pending := self._under_way.get(key)) is not None:
            await asyncio.wait([pending])
            if not pending.cancelled():
                return _shared(pending.result())
        if (known := self._get(key)) is not None:
            return _shared(known)
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
        if score.latency_s >= self._worth_s and _all_numbers(score):
            self._put(key, score)
        return score

    def close(self) -> None:
        """Lets go of the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _get(self, key: str) -> Score | None:
        found = self._run("SELECT score FROM verdicts WHERE key = ?", key)
        if found is None:
            return None
        try:
            return _from_json(json.loads(found))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._make_anew(error)
            return None

    def _put(self, key: str, score: Score) -> None:
        text = json.dumps(_to_json(score))
        if len(text) > _LONGEST_ENTRY:
            return
        self._run("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", key, text)
        self._puts += 1
        if self._puts % _TRIM_EVERY == 0:
            newest = "SELECT max(rowid) FROM verdicts"
            self._run(f"DELETE FROM verdicts WHERE rowid <= ({newest}) - ?", self._max_entries)

    def _run(self, statement: str, *values: Any) -> Any:
        """The first column of the first row, if there is one."""
        if self._database is None:
            return None
        try:
            row = self._database.execute(statement, values).fetchone()
        except sqlite3.OperationalError as error:
            self._give_up(error)
        except sqlite3.DatabaseError as error:
            self._make_anew(error)
        else:
            return row and row[0]
        return None

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connect()
        except (OSError, sqlite3.OperationalError) as error:
            self._give_up(error)
        except sqlite3.DatabaseError as error:
            self._make_anew(error)

    def _connect(self) -> None:
        self._database = sqlite3.connect(
            self.path, timeout=1.0, isolation_level=None, check_same_thread=False
        )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(_TABLE)

    def _make_anew(self, why: Exception) -> None:
        self.close()
        self._note(f"the score cache {self.path} was damaged ({why}) and is made anew")
        try:
            for tail in ("", "-wal", "-shm"):
                Path(f"{self.path}{tail}").unlink(missing_ok=True)
            self._connect()
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def _give_up(self, why: Exception) -> None:
        self.close()
        self._note(f"the score cache {self.path} cannot be used ({why}); going on without")


def _shared(score: Score) -> Score:
    return score.stamped(cost=Cost(), attempts=0, latency_s=0.0, cached=score.ok)


def _all_numbers(score: Score) -> bool:
    return score.ok and all(map(_all_numbers, score.parts.values()))


def _plain(prompt: Any) -> Any:
    return prompt if isinstance(prompt, str) else [message.to_dict() for message in prompt]


def _to_json(score: Score) -> dict[str, Any]:
    return {
        "value": score.value,
        "reason": score.reason,
        "metrics": dict(score.metrics),
        "turn_values": score.turn_values,
        "parts": {name: _to_json(part) for name, part in score.parts.items()},
        "evaluator": score.evaluator,
        "fingerprint": score.fingerprint,
    }


def _from_json(raw: Mapping[str, Any]) -> Score:
    return Score(
        raw["value"],
        reason=raw["reason"],
        metrics=raw["metrics"],
        turn_values=None if raw["turn_values"] is None else tuple(raw["turn_values"]),
        parts={name: _from_json(part) for name, part in raw["parts"].items()},
        evaluator=raw["evaluator"],
        fingerprint=raw["fingerprint"],
    )

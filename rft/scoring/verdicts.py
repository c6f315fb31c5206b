"""A file of verdicts by key, in SQLite, which several processes may use at once and no run depends on.

When it is damaged it is made anew, when it cannot be used everybody goes on without, and nothing is flushed
to the disk for its sake: what was put there survives the process, not a power cut.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from rft.types import Cost, Score

_TABLE = "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, score TEXT NOT NULL)"
_TRIM_EVERY = 1000
_LONGEST_ENTRY = 1 << 16


class VerdictFile:
    """Lists of scores that are numbers.

    Args:
        path: the SQLite file; its folder is made.
        called: what a note calls it.
        note: is told, in a sentence, when the file was damaged or cannot be used.
        max_entries: the oldest beyond so many are dropped.
    """

    def __init__(
        self,
        path: Path,
        called: str,
        note: Callable[[str], None] = lambda text: None,
        *,
        max_entries: int = 100_000,
    ) -> None:
        self._path, self._called, self._note = path, called, note
        self._max_entries = max_entries
        self._puts = 0
        self._database: sqlite3.Connection | None = None
        self._open()

    @property
    def newest(self) -> int:
        """The number of the newest entry; 0 when there is none."""
        return self._run("SELECT max(rowid) FROM verdicts") or 0

    def get(self, key: str, up_to: int | None = None) -> list[Score] | None:
        """What was put under `key`; with `up_to`, if its entry's number is not above that."""
        newest = sys.maxsize if up_to is None else up_to
        found = self._run("SELECT score FROM verdicts WHERE key = ? AND rowid <= ?", key, newest)
        if found is None:
            return None
        try:
            return [_from_json(one) for one in json.loads(found)]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._make_anew(error)
            return None

    def put(self, key: str, scores: Sequence[Score]) -> None:
        """Keeps scores under `key`, unless they are too long or there are some already."""
        text = json.dumps([_to_json(score) for score in scores])
        if len(text) > _LONGEST_ENTRY:
            return
        self._run("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", key, text)
        self._puts += 1
        if self._puts % _TRIM_EVERY == 0:
            newest = "SELECT max(rowid) FROM verdicts"
            self._run(f"DELETE FROM verdicts WHERE rowid <= ({newest}) - ?", self._max_entries)

    def close(self) -> None:
        """Lets go of the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

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
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connect()
        except (OSError, sqlite3.OperationalError) as error:
            self._give_up(error)
        except sqlite3.DatabaseError as error:
            self._make_anew(error)

    def _connect(self) -> None:
        self._database = sqlite3.connect(
            self._path, timeout=1.0, isolation_level=None, check_same_thread=False
        )
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(_TABLE)

    def _make_anew(self, why: Exception) -> None:
        self.close()
        self._note(f"{self._called} was damaged ({why}) and is made anew")
        try:
            for tail in ("", "-wal", "-shm"):
                Path(f"{self._path}{tail}").unlink(missing_ok=True)
            self._connect()
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def _give_up(self, why: Exception) -> None:
        self.close()
        self._note(f"{self._called} cannot be used ({why}); going on without")


def _to_json(score: Score) -> dict[str, Any]:
    return {
        "value": score.value,
        "reason": score.reason,
        "metrics": dict(score.metrics),
        "turn_values": score.turn_values,
        "parts": {name: _to_json(part) for name, part in score.parts.items()},
        "cost": astuple(score.cost),
        "evaluator": score.evaluator,
        "fingerprint": score.fingerprint,
        "latency_s": score.latency_s,
        "attempts": score.attempts,
        "cached": score.cached,
    }


def _from_json(raw: Mapping[str, Any]) -> Score:
    return Score(
        raw["value"],
        reason=raw["reason"],
        metrics=raw["metrics"],
        turn_values=None if raw["turn_values"] is None else tuple(raw["turn_values"]),
        parts={name: _from_json(part) for name, part in raw["parts"].items()},
        cost=Cost(*raw["cost"]),
        evaluator=raw["evaluator"],
        fingerprint=raw["fingerprint"],
        latency_s=raw["latency_s"],
        attempts=raw["attempts"],
        cached=raw["cached"],
    )

"""SQL by what it answers: query and reference run on the same database, and their rows are compared."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rft.evaluator import Case, Evaluator, Limits
from rft.evaluators._answers import code_of
from rft.types import Rollout, Score

_LONGEST = 1_000_000
_READS = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_NEVER = frozenset({"random", "randomblob", "load_extension"})
_ASIDE = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_SHOP = (
    "CREATE TABLE items (id INTEGER, name TEXT, price REAL);"
    "INSERT INTO items VALUES (1, 'pen', 2.5), (2, 'ink', 9.0), (3, 'cap', 2.5);"
)
_CHEAP = "SELECT name FROM items WHERE price < 5"


class SQLResult(Evaluator):
    """1 when the answer's query gives the rows that the reference query gives, else 0.

    Both run in SQLite, in memory, on the task's field `schema`: the statements that make and fill the tables.
    Rows are compared as a multiset, and in order where the reference orders its result; column names do not
    count, numbers are equal to six decimals. `resampled` adds that many databases with the same tables whose
    columns are drawn anew, so that a query that is right by coincidence is found out.

    The query is the last fenced block or the whole answer: one statement, that may only read. A reference
    that fails, or that finds nothing in any of the databases, leaves the sample unscored: every query that
    finds nothing would be right.

    Cannot see: other dialects than SQLite's; a wrong query on databases too small to show it; which of two
    right queries is faster.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        timeout_s: float = Field(2.0, gt=0, le=60)
        """Seconds for one query."""
        max_rows: int = Field(10_000, ge=1)
        resampled: int = Field(0, ge=0, le=20)

    name = "sql_result"
    requires = frozenset({"reference", "schema"})
    cases = (
        Case("Cheap?", "SELECT name FROM items WHERE price < 5;", 1.0, _CHEAP, {"schema": _SHOP}),
        Case(
            "Cheap?",
            "So:\n```sql\nselect name from items where price = 2.5 order by id desc\n```",
            1.0,
            _CHEAP,
            {"schema": _SHOP},
        ),
        Case(
            "Cheap?",
            "SELECT name FROM items WHERE price = 2.5",
            0.0,
            _CHEAP,
            {"schema": _SHOP},
            {"resampled": 8},
        ),
        Case(
            "Cheap?", "SELECT 'pen' UNION ALL SELECT 'cap'", 0.0, _CHEAP, {"schema": _SHOP}, {"resampled": 8}
        ),
        Case(
            "Cheap?",
            "SELECT name FROM items i WHERE NOT price >= 5",
            1.0,
            _CHEAP,
            {"schema": _SHOP},
            {"resampled": 8},
        ),
        Case("Cheap?", "SELECT name, id FROM items WHERE price < 5", 0.0, _CHEAP, {"schema": _SHOP}),
        Case("Cheap?", "SELECT name FROM items", 0.0, _CHEAP, {"schema": _SHOP}),
        Case(
            "Cheap?",
            "SELECT DISTINCT price FROM items WHERE price < 5",
            0.0,
            "SELECT price FROM items WHERE price < 5",
            {"schema": _SHOP},
        ),
        Case(
            "Sort.",
            "SELECT name FROM items ORDER BY name",
            1.0,
            "SELECT name FROM items ORDER BY name ASC",
            {"schema": _SHOP},
        ),
        Case(
            "Sort.",
            "SELECT name FROM items ORDER BY id",
            0.0,
            "SELECT name FROM items ORDER BY name ASC",
            {"schema": _SHOP},
        ),
        Case("Cheap?", "DROP TABLE items", 0.0, _CHEAP, {"schema": _SHOP}),
        Case("Cheap?", "SELECT 1; SELECT 2", 0.0, _CHEAP, {"schema": _SHOP}),
        Case("Cheap?", "pen and cap", 0.0, _CHEAP, {"schema": _SHOP}),
        Case("Cheap?", "", 0.0, _CHEAP, {"schema": _SHOP}),
        Case(
            "Cheap?",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
            0.0,
            _CHEAP,
            {"schema": _SHOP},
            {"timeout_s": 0.1},
        ),
        Case("Cheap?", "SELECT 1", "unscored", "SELECT nothing FROM nowhere", {"schema": _SHOP}),
        Case(
            "Cheap?",
            "SELECT 1 WHERE 0",
            "unscored",
            "SELECT name FROM items WHERE price > 99",
            {"schema": _SHOP},
        ),
        Case("Cheap?", "SELECT 1", "unscored", _CHEAP, {"schema": "CREATE TABEL items"}),
    )

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        # Each query has its own clock; this one is for all of them, and for a machine that hangs.
        whole = 2 * (1 + self.config.resampled) * self.config.timeout_s + 30
        self.limits = Limits(concurrency=4, timeout_s=whole, deadline_s=2 * whole)

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        gold, query = str(rollout.task.reference), code_of(rollout.text).strip()
        script = str(rollout.task.metadata["schema"])
        ordered = _orders(gold)
        found = False
        for number in range(1 + self.config.resampled):
            with closing(sqlite3.connect(":memory:")) as database:
                try:
                    _fill(database, script, number)
                    wanted = self._rows(database, gold)
                except sqlite3.Error as error:
                    if number:  # what was drawn broke a rule of the tables or of the query: no say in it
                        continue
                    return Score.skip(f"the reference cannot be run: {error}"[:200])
                found = found or bool(wanted)
                try:
                    said = self._rows(database, query)
                except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                    return Score(0.0, reason=f"{type(error).__name__}: {error}"[:200])
                if (said != wanted) if ordered else (Counter(said) != Counter(wanted)):
                    where = f" in resampled database {number}" if number else ""
                    return Score(0.0, reason=f"{len(said)} rows against {len(wanted)}, not the same{where}")
        return Score(1.0) if found else Score.skip("the reference finds nothing: so would a wrong query")

    def _rows(self, database: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
        """Raises sqlite3.Error for a query that fails, writes, or takes too long or too much."""
        until = time.monotonic() + self.config.timeout_s
        database.set_progress_handler(lambda: time.monotonic() > until, 1000)
        database.set_authorizer(_only_reads)
        try:
            rows = database.execute(query).fetchmany(self.config.max_rows + 1)
        finally:
            database.set_authorizer(None)
            database.set_progress_handler(None, 0)
        if len(rows) > self.config.max_rows:
            raise sqlite3.DataError(f"more than {self.config.max_rows} rows")
        return [tuple(map(_plain, row)) for row in rows]


def _only_reads(action: int, first: str | None, second: str | None, *_: Any) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if (second or "").lower() in _NEVER else sqlite3.SQLITE_OK
    return sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY


def _fill(database: sqlite3.Connection, script: str, number: int) -> None:
    """Makes the tables; from number 1 on, with each column's values drawn anew from those it had."""
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    database.executescript(script)
    if not number:
        return
    draw = random.Random(number)
    database.execute("PRAGMA foreign_keys = OFF")
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for (table,) in database.execute(tables).fetchall():
        quoted = '"' + table.replace('"', '""') + '"'
        rows = database.execute(f"SELECT * FROM {quoted}").fetchall()
        if not rows:
            continue
        columns = [_widened(column) for column in zip(*rows, strict=True)]
        drawn = [tuple(draw.choice(column) for column in columns) for _ in range(2 * len(rows))]
        database.execute(f"DELETE FROM {quoted}")
        holes = ", ".join("?" * len(columns))
        database.executemany(f"INSERT OR IGNORE INTO {quoted} VALUES ({holes})", drawn)


def _widened(column: Iterable[Any]) -> Sequence[Any]:
    """A column's values, and for numbers also their neighbours, so that comparisons meet both sides."""
    values = list(column)
    numbers = [value for value in values if isinstance(value, (int, float))]
    return [*values, *(value + step for value in numbers for step in (-1, 1))]


def _orders(query: str) -> bool:
    """Whether the result itself is ordered: ORDER BY outside of any parentheses."""
    plain, depth = [], 0
    for letter in _ASIDE.sub(" ", query):
        depth += (letter == "(") - (letter == ")")
        plain.append(letter if depth == 0 else " ")
    return bool(_ORDER.search("".join(plain)))


def _plain(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value

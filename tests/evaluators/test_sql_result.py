"""What a query may not do to the database, the host or the comparison."""

from __future__ import annotations

import pytest

from rft import score
from rft.evaluators import SQLResult

SHOP = (
    "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO items VALUES (1, 'pen'), (2, 'ink');"
)
NAMES = "SELECT name FROM items"


def judged(query, gold=NAMES, **options):
    return score(SQLResult(**options), prompt="?", completion=query, reference=gold, schema=SHOP)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM items RETURNING name",
        "ATTACH DATABASE '/tmp/rft-attached.db' AS other",
        "PRAGMA writable_schema = 1",
        "VACUUM INTO '/tmp/rft-vacuumed.db'",
        "CREATE TABLE copy AS SELECT * FROM items",
        "SELECT load_extension('/lib/evil.so')",
        "SELECT name FROM items WHERE random() IS NOT NULL",
        "SELECT name FROM items; DELETE FROM items",
        "SELECT zeroblob(900000000)",
        "SELECT hex(zeroblob(900000))",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT name FROM items -- \x00",
    ],
)
def test_a_query_that_does_more_than_read_a_little_is_wrong(query):
    got = judged(query, timeout_s=0.5)
    assert got.value == 0.0, got.explain()


def test_an_endless_query_ends_with_its_time():
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    got = judged(endless, timeout_s=0.2)
    assert (got.value, got.reason) == (0.0, "OperationalError: interrupted")


def test_more_rows_than_allowed_in_the_reference_leave_the_sample_unscored():
    assert judged(NAMES, max_rows=1).status == "skipped"


@pytest.mark.parametrize(
    ("gold", "counts"),
    [
        ("SELECT name FROM items ORDER BY name", True),
        ("SELECT name FROM (SELECT * FROM items ORDER BY name)", False),
        ("SELECT name FROM items -- order by name", False),
        ("SELECT 'order by', name FROM items", False),
    ],
)
def test_the_order_counts_where_the_reference_orders_its_own_result(gold, counts):
    shuffled = gold.split("ORDER BY name")[0] if counts else gold
    answer = f"SELECT * FROM ({shuffled}\n) ORDER BY 1 DESC"
    assert judged(answer, gold).value == (0.0 if counts else 1.0)


def test_constants_copied_from_the_data_are_found_out_on_drawn_databases():
    copied = "SELECT 'pen' UNION ALL SELECT 'ink'"
    assert judged(copied).value == 1.0
    assert judged(copied, resampled=5).value == 0.0
    assert judged("SELECT items.name FROM items WHERE id = id", resampled=5).value == 1.0

"""A source of the recipe -> a list of tasks, checked.

All rows are read before anything heavy loads: a broken row in the middle of a file should cost seconds, not
an hour of training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from rft.data.examples import part_answer, to_example
from rft.data.rows import read_rows
from rft.data.tasks import missing_fields, to_task
from rft.errors import DataError
from rft.recipe.schema import Examples, SourceSpec
from rft.types import Task


def load_tasks(
    spec: SourceSpec,
    *,
    seed: int,
    requires: Iterable[str] = (),
    limit: int | None = None,
    answers: Examples | None = None,
) -> list[Task]:
    """Reads a source into tasks, in the source's own order.

    Args:
        seed: for sources that make their rows (functions, reasoning-gym).
        requires: task fields that the evaluator reads; every task must have them, not null.
        limit: read at most so many rows, on top of `spec.limit`.
        answers: the kind of learning that takes its answers from the rows; see `rft/data/examples.py`.

    Raises DataError: the first broken row, or all rows that lack a required field, counted.
    """
    tasks: list[Task] = []
    seen: dict[str, str] = {}
    lacking: Counter[str] = Counter()
    first: dict[str, str] = {}
    for where, task in _stream(spec, seed, limit, answers):
        if task.id in seen:
            raise DataError(f"{where}: the id {task.id!r} is taken by {seen[task.id]}; ids must differ")
        seen[task.id] = where
        for name in missing_fields(task, requires):
            lacking[name] += 1
            first.setdefault(name, f"{where}, which has {', '.join(_fields(task)) or 'none'}")
        tasks.append(task)
    if not tasks:
        raise DataError(f"{spec.source} holds no rows")
    if lacking:
        told = [f"{name!r} in {count} of {len(tasks)} rows" for name, count in lacking.items()]
        raise DataError(
            f"{spec.source} lacks what the evaluator reads: {', '.join(told)}; first at "
            f"{first[next(iter(lacking))]}; map a column: `columns: {{{next(iter(lacking))}: ...}}`"
        )
    return tasks


def _stream(
    spec: SourceSpec, seed: int, limit: int | None, answers: Examples | None
) -> Iterator[tuple[str, Task]]:
    limits = [number for number in (spec.limit, limit) if number is not None]
    rows = islice(read_rows(spec, seed=seed), min(limits) if limits else None)
    for index, row in enumerate(rows):
        if answers is None:
            yield row.where, to_task(row, spec, index)
        else:
            task = to_task(part_answer(row, spec) if answers == "sft" else row, spec, index)
            yield row.where, to_example(row.where, task, answers)


def _fields(task: Task) -> list[str]:
    return [*(["reference"] if task.reference is not None else []), *task.metadata]

"""Tasks to train on and tasks to judge by, which never ask the same.

Two rows with the same prompt are one question. A held-out question therefore leaves the training set with
all its copies; what was left out is counted, so that a dataset full of duplicates cannot flatter a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rft.data.order import permutation
from rft.data.source import load_tasks
from rft.data.tasks import prompt_key
from rft.errors import DataError
from rft.recipe.schema import DataSpec, Examples, SourceSpec
from rft.types import Task

LARGEST_SHARE = 0.2
"""Of the distinct prompts, at most this share is set aside: little data is still mostly trained on."""

EVAL_SEED = 1_000_003
"""Added to the seed of generated held-out tasks. Far away, because generators count up from their seed."""


@dataclass(frozen=True)
class Split:
    """Disjoint sets of tasks, by prompt.

    >>> tasks = [Task("a", "1+1"), Task("b", "2+2"), Task("c", "2+2")]
    >>> split = split_heldout(tasks, 1, seed=3)
    >>> [task.id for task in split.heldout], [task.id for task in split.train], split.duplicates
    (['b'], ['a'], 1)
    """

    train: list[Task]
    heldout: list[Task]
    duplicates: int
    """Tasks left out of `train` because their prompt is held out."""
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each."""


def load_split(
    data: DataSpec,
    *,
    num_heldout: int,
    seed: int,
    requires: frozenset[str] = frozenset(),
    answers: Examples | None = None,
) -> Split:
    """Loads both sets of a recipe. Raises DataError.

    Args:
        num_heldout: the recipe's `eval.tasks`.
        requires: fields that the evaluator reads.
        answers: the kind of learning that takes its answers from the training rows; the evaluator then sees
            only held-out ones.
    """
    judged = answers is None or data.eval is None
    tasks = load_tasks(data.train, seed=seed, requires=requires if judged else (), answers=answers)
    if data.eval is None:
        return split_heldout(tasks, num_heldout, seed)
    return _apart(tasks, _own_heldout(data.eval, num_heldout, seed, requires))


def load_heldout(
    data: DataSpec,
    *,
    num_heldout: int,
    seed: int,
    requires: frozenset[str] = frozenset(),
    answers: Examples | None = None,
) -> list[Task]:
    """The held-out tasks of `load_split`; the training data is read only if they are taken from it."""
    if data.eval is None:
        split = load_split(data, num_heldout=num_heldout, seed=seed, requires=requires, answers=answers)
        return split.heldout
    return _own_heldout(data.eval, num_heldout, seed, requires)


def _own_heldout(spec: SourceSpec, num_heldout: int, seed: int, requires: frozenset[str]) -> list[Task]:
    return _sample(load_tasks(spec, seed=seed + EVAL_SEED, requires=requires), num_heldout, seed)


def split_heldout(tasks: Sequence[Task], n: int, seed: int) -> Split:
    """Sets `n` tasks with distinct prompts aside, chosen by `seed`; fewer when data is scarce.

    Raises DataError when all tasks ask the same.
    """
    by_prompt = {prompt_key(task): task for task in reversed(tasks)}  # reversed: the first of its kind stays
    distinct = [by_prompt[key] for key in dict.fromkeys(map(prompt_key, tasks))]
    if len(distinct) < 2:
        told = f"{len(tasks)} tasks with {len(distinct)} distinct prompts cannot be split"
        raise DataError(f"{told} into training and held-out; set data.eval")
    size = min(n, max(1, int(len(distinct) * LARGEST_SHARE)))
    heldout = _sample(distinct, size, seed)
    chosen = {id(task) for task in heldout}
    split = _apart([task for task in tasks if id(task) not in chosen], heldout)
    if size == n:
        return split
    note = f"held out {size} tasks instead of {n}: a fifth of the {len(distinct)} distinct prompts"
    return replace(split, notes=(note, *split.notes))


def _sample(tasks: Sequence[Task], n: int, seed: int) -> list[Task]:
    """`n` of the tasks, in their own order."""
    return [tasks[index] for index in sorted(permutation(len(tasks), f"{seed}/heldout")[:n])]


def _apart(tasks: Sequence[Task], heldout: list[Task]) -> Split:
    keys = {prompt_key(task) for task in heldout}
    train = [task for task in tasks if prompt_key(task) not in keys]
    duplicates = len(tasks) - len(train)
    if not train:
        raise DataError("every training prompt is also held out; give data.eval other tasks")
    notes = (f"left {duplicates} training tasks out: their prompts are held out",) if duplicates else ()
    return Split(train, heldout, duplicates, notes)

"""The order in which tasks are trained on: seeded, the same on every machine, and resumable.

Each epoch is a permutation of its own, made from (seed, epoch) alone, so a position is two small numbers and
a restored run goes on exactly where it stopped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from rft.errors import DataError
from rft.types import Group, Task


def permutation(n: int, seed: str) -> list[int]:
    """The numbers below `n` in an order made from `seed`, the same in every version of Python.

    Python promises that of `random()` but not of `shuffle()`.
    """
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)


class TaskOrder:
    """Hands out tasks epoch after epoch, without end.

    >>> order = TaskOrder([Task("a", "1"), Task("b", "2"), Task("c", "3")], seed=0, shuffle=False)
    >>> [task.id for task in order.take(4)], order.state()["epoch"]
    (['a', 'b', 'c', 'a'], 1)
    """

    def __init__(self, tasks: Sequence[Task], *, seed: int, shuffle: bool = True) -> None:
        """Raises DataError when there are no tasks."""
        if not tasks:
            raise DataError("there are no tasks to train on")
        self._tasks = tasks
        self._seed = seed
        self._shuffle = shuffle
        self._epoch = 0
        self._position = 0
        self._permutation = self._permute(0)
        ids = "\n".join(task.id for task in tasks)
        self._digest = hashlib.sha256(ids.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def __len__(self) -> int:
        """Tasks in an epoch."""
        return len(self._tasks)

    @property
    def num_taken(self) -> int:
        """Tasks handed out since the beginning."""
        return self._epoch * len(self._tasks) + self._position

    def take(self, n: int) -> list[Task]:
        """The next `n` tasks. A batch that spans two epochs may hold a task twice."""
        taken: list[Task] = []
        while len(taken) < n:
            if self._position == len(self._tasks):
                self._epoch, self._position = self._epoch + 1, 0
                self._permutation = self._permute(self._epoch)
            end = min(self._position + n - len(taken), len(self._tasks))
            taken += [self._tasks[index] for index in self._permutation[self._position : end]]
            self._position = end
        return taken

    def ahead(self, n: int) -> list[Task]:
        """What `take` would hand out, left where it is."""
        here = self.state()
        tasks = self.take(n)
        self.restore(here)
        return tasks

    def observe(self, groups: Sequence[Group]) -> None:
        """Rewards do not change this order; see `rft.data.curriculum` for one that they do."""

    def metrics(self) -> dict[str, float]:
        """Nothing to tell."""
        return {}

    def number(self, task: Task) -> int:
        """A task's place in the data, which `task` finds it by."""
        return self._tasks.index(task)

    def task(self, number: int) -> Task:
        """The task at a place in the data."""
        return self._tasks[number]

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain JSON values."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "tasks": self._digest,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises DataError when the tasks or the seed are not the same."""
        mine = self.state()
        changed = [name for name in ("tasks", "seed", "shuffle") if state[name] != mine[name]]
        if changed:
            told = f"{' and '.join(changed)} changed since it stopped"
            raise DataError(f"the run cannot go on in its order: {told}; bring them back, or start a new run")
        self._epoch, self._position = state["epoch"], state["position"]
        self._permutation = self._permute(self._epoch)

    def _permute(self, epoch: int) -> list[int]:
        size = len(self._tasks)
        return permutation(size, f"{self._seed}/{epoch}") if self._shuffle else list(range(size))

"""Which tasks are asked again soon: those that are neither too easy nor too hard yet.

Tasks come in their seeded order, epoch after epoch. One whose mean reward was last near the bottom or the top
of the evaluator's range is passed over most of the time: all its answers would be worth the same, and teach
nothing. It still comes up now and then (`keep`), because the policy moves and what it was judged by is old. A
task that was never asked is always asked.

Whether a task is passed over is drawn from the seed and its place in the order alone, so a restored run goes
on as the uninterrupted one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from rft.data.order import TaskOrder
from rft.errors import DataError
from rft.recipe.schema import CurriculumSpec
from rft.types import Group, Task


class Curriculum:
    """A `TaskOrder` that passes over what teaches little."""

    def __init__(
        self, order: TaskOrder, spec: CurriculumSpec, reward_range: tuple[float, float], *, seed: int
    ) -> None:
        """
        Args:
            reward_range: lowest and highest reward, which `spec.low` and `spec.high` are shares of.

        Raises DataError for a range without an end.
        """
        low, high = reward_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise DataError(
                f"data.curriculum needs an evaluator with a lowest and a highest reward, got range "
                f"({low:g}, {high:g}); give the evaluator one, or leave the curriculum out"
            )
        self._order, self._spec, self._seed = order, spec, seed
        self._lowest, self._width = low, high - low
        self._last: dict[str, float] = {}
        """By task id: the mean reward when it was last asked, as a share of the range."""

    def take(self, n: int) -> list[Task]:
        """The next `n` tasks that are not passed over; never passes over more in a row than there are."""
        taken: list[Task] = []
        passed = 0
        while len(taken) < n:
            place = self._order.num_taken
            (task,) = self._order.take(1)
            if passed < len(self._order) and self._passes_over(task, place):
                passed += 1
            else:
                taken.append(task)
                passed = 0
        return taken

    def observe(self, groups: Sequence[Group]) -> None:
        """Takes note of how hard tasks were. Groups without a number say nothing."""
        for group in groups:
            rewards = [float(score) for score in group.scores if score.ok]
            if rewards:
                self._last[group.task.id] = (sum(rewards) / len(rewards) - self._lowest) / self._width

    def metrics(self) -> dict[str, float]:
        """Shares of the tasks asked so far that were last too hard, too easy, or in between."""
        asked = max(1, len(self._last))
        hard = sum(share < self._spec.low for share in self._last.values()) / asked
        easy = sum(share > self._spec.high for share in self._last.values()) / asked
        return {
            "curriculum/hard_frac": hard,
            "curriculum/easy_frac": easy,
            "curriculum/between_frac": (len(self._last) > 0) - hard - easy,
        }

    def number(self, task: Task) -> int:
        """See `TaskOrder.number`."""
        return self._order.number(task)

    def task(self, number: int) -> Task:
        """See `TaskOrder.task`."""
        return self._order.task(number)

    def state(self) -> dict[str, Any]:
        """The order's, and how hard each task was last."""
        return {**self._order.state(), "last": dict(self._last)}

    def restore(self, state: dict[str, Any]) -> None:
        """As `TaskOrder.restore`. A state without a curriculum restores one that has seen nothing."""
        self._order.restore(state)
        self._last = dict(state.get("last", {}))

    def _passes_over(self, task: Task, place: int) -> bool:
        last = self._last.get(task.id)
        if last is None or self._spec.low <= last <= self._spec.high:
            return False
        return random.Random(f"{self._seed}/curriculum/{place}").random() >= self._spec.keep

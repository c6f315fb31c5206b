"""Which groups a step trains on: as many as it wants, of those that teach something, none too old.

    refill_rounds   groups that teach nothing are replaced by fresh ones (dynamic sampling, DAPO,
                    arXiv:2503.14476, section 3.2), in at most so many further rounds. The paper goes on until
                    the batch is full; here what is missing then is made up with groups that teach nothing,
                    which keeps the scale of the step, and reported.
    oversample      more groups are begun than needed, and what still runs when there is enough is cut off.
    keep_partial    what was cut off is played on in the next step. Finished members keep their scores; the
                    others are played again from their own seeds: long answers are what gets cut, and with
                    other seeds they would rarely be seen.
    max_staleness   finished members older than that are not kept: they are played again.

Without over-sampling nothing here depends on time: the same seed gives the same groups.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Protocol

from rft.recipe.schema import RolloutSpec
from rft.rollout.collect import Asked, OnProgress, Played, collect_asked
from rft.rollout.play import AnyPlayer
from rft.rollout.stored import asked_from_text, asked_to_text, group_from_text, group_to_text
from rft.types import Group, Rollout, Score, Task


class Tasks(Protocol):
    """What is asked next; see `rft.data.order` and `rft.data.curriculum`."""

    def take(self, n: int) -> list[Task]: ...
    def observe(self, groups: Sequence[Group]) -> None: ...
    def metrics(self) -> dict[str, float]: ...
    def number(self, task: Task) -> int: ...
    def task(self, number: int) -> Task: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...


class Scoring(Protocol):
    """Who scores; see `rft.scoring.ScoringRunner`."""

    async def ready(self) -> None: ...
    async def score(self, rollout: Rollout) -> Score: ...
    async def settle(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> Sequence[Score]: ...


@dataclass(frozen=True)
class Supplied:
    """One step's groups."""

    groups: list[Group]
    """To train on."""
    set_aside: list[Group] = field(default_factory=list)
    """Played and scored, and not trained on."""
    seconds: float = 0.0
    """From the first request to the last score."""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def played(self) -> list[Group]:
        """All whose scores were paid for: to be written down, counted and watched."""
        return [*self.groups, *self.set_aside]


class Selection:
    """Plays groups until a step has what it wants. Belongs to one event loop, one step at a time."""

    def __init__(
        self,
        player: AnyPlayer,
        scoring: Scoring,
        tasks: Tasks,
        spec: RolloutSpec,
        *,
        groups_per_step: int,
        seed: int,
        teaches: Callable[[Group], bool],
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        """
        Args:
            teaches: whether a group gives a gradient: enough scored members, not all of one reward.
            note: is told, the first time, that a step could not be filled.
        """
        self.tasks = tasks
        self._player, self._scoring, self._spec = player, scoring, spec
        self._wanted, self._seed = groups_per_step, seed
        self._teaches = teaches
        self._note = note
        self._cut: list[Asked] = []
        """Groups of earlier steps that are to be played on."""
        self._spare: list[Group] = []
        """Groups that finished when there was enough already."""
        self._warned = False

    async def play(self, step: int, on_progress: OnProgress = lambda done, total: None) -> Supplied:
        """The groups of `step`, counted from 0, which is also the version of the weights that it changes.

        Args:
            on_progress: called with (scored, total) after each rollout.

        Raises EngineError when the engine dies.
        """
        began = time.perf_counter()
        spec = self._spec
        good, stale, num_stale = self._leftovers(step)
        poor: list[Group] = []
        asked = self._cut
        ids = {group.id for group in (*good, *stale)} | {one.id for one in asked}
        for _ in range(1 + spec.refill_rounds):
            missing = self._wanted - len(good)
            if missing <= 0:
                break
            fresh = math.ceil(missing * spec.oversample) - len(asked)
            asked = [*asked, *self._ask(step, max(0, fresh), ids)]
            played = await self._collect(asked, missing, on_progress)
            self.tasks.observe(played.groups)
            for group in played.groups:
                (good if self._counts(group) else poor).append(group)
            asked = played.cut
        groups, spare = good[: self._wanted], good[self._wanted :]
        short = self._wanted - len(groups)
        groups += poor[:short]
        self._warn(step, short)
        self._cut, self._spare = (asked, spare) if spec.keep_partial else ([], [])
        metrics = self.tasks.metrics()
        if spec.refill_rounds:
            metrics |= {"groups/refilled": len(poor) - short, "groups/missing": short}
        if spec.oversample > 1:
            metrics |= {"groups/cut": len(asked) + len(spare)}
        if spec.keep_partial or spec.one_step_off:
            metrics |= staleness(groups, step, num_stale)
        dropped = [] if spec.keep_partial else spare
        return Supplied(groups, [*poor[short:], *stale, *dropped], time.perf_counter() - began, metrics)

    def state(self) -> dict[str, Any]:
        """What the next step depends on, as plain JSON values."""
        number = self.tasks.number
        return {
            "tasks": self.tasks.state(),
            "cut": [asked_to_text(one, number) for one in self._cut],
            "spare": [group_to_text(group, number) for group in self._spare],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken.

        Raises DataError when the tasks or their order are not the same.
        """
        self.tasks.restore(state["tasks"])
        self._cut = [asked_from_text(text, self.tasks.task) for text in state["cut"]]
        self._spare = [group_from_text(text, self.tasks.task) for text in state["spare"]]

    def _leftovers(self, step: int) -> tuple[list[Group], list[Group], int]:
        """Spare groups that may be trained on, those too old, and how many finished members are too old.

        Cut groups lose such members, which are played again.
        """
        limit = self._spec.max_staleness
        usable: list[Group] = []
        stale: list[Group] = []
        for group in self._spare:
            too_old = any(age(rollout, step) > limit for rollout in group.rollouts)
            (stale if too_old else usable).append(group)
        cut = []
        for asked in self._cut:
            done = {index: one for index, one in asked.done.items() if age(one[0], step) <= limit}
            cut.append(replace(asked, done=done))
        lost = sum(len(one.done) for one in self._cut) - sum(len(one.done) for one in cut)
        self._cut, self._spare = cut, []
        return usable, stale, lost + sum(len(group.rollouts) for group in stale)

    def _ask(self, step: int, n: int, ids: set[str]) -> list[Asked]:
        """`n` fresh groups with ids that no other group of the step has; they are added to `ids`."""
        asked = []
        numbers = count(len(ids))
        for task in self.tasks.take(n):
            candidates = (Asked(number, task, (self._seed, step)) for number in numbers)
            asked.append(next(one for one in candidates if one.id not in ids))
            ids.add(asked[-1].id)
        return asked

    async def _collect(self, asked: Sequence[Asked], missing: int, on_progress: OnProgress) -> Played:
        return await collect_asked(
            self._player,
            self._scoring.score,
            asked,
            group_size=self._spec.group_size,
            temperature=self._spec.temperature,
            settle=self._scoring.settle,
            ready=self._scoring.ready,
            on_progress=on_progress,
            enough=lambda finished: sum(1 for group in finished if self._counts(group)) >= missing,
        )

    def _counts(self, group: Group) -> bool:
        """Towards what the step wants: any group, unless those that teach nothing are to be replaced."""
        return self._spec.refill_rounds == 0 or self._teaches(group)

    def _warn(self, step: int, short: int) -> None:
        if short and not self._warned:
            self._warned = True
            self._note(
                f"step {step + 1}: {short} of {self._wanted} groups teach nothing even after "
                f"{self._spec.refill_rounds} further rounds (rollout.refill_rounds); make tasks easier or "
                "harder, raise rollout.group_size, or give partial credit"
            )


def age(rollout: Rollout, step: int) -> int:
    """Versions of the weights between the oldest token and the update of `step`; 0 without tokens."""
    versions = [version for turn in rollout.turns for version, _, _ in turn.weight_versions]
    return step - min(versions) if versions else 0


def staleness(groups: Sequence[Group], step: int, num_stale: int) -> dict[str, float]:
    """How old a step's rollouts are on average, and what share was thrown away because of its age."""
    ages = [age(rollout, step) for group in groups for rollout in group.rollouts]
    return {
        "rollout/staleness": sum(ages) / max(1, len(ages)),
        "rollout/stale_frac": num_stale / max(1, num_stale + len(ages)),
    }

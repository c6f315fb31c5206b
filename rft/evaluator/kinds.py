"""Evaluators that see several rollouts in one call: batches for speed, groups for comparison.

A batch is whatever happens to be waiting, and nothing in a verdict may depend on who else is in it. A group
is one prompt's rollouts, and comparing them is the point: its verdicts are all or nothing, as a number that
was given among five siblings says nothing beside one given among three.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from rft.errors import EvaluatorError
from rft.evaluator.base import Evaluator, Verdict
from rft.types import Message, Rollout, Score


class BatchEvaluator(Evaluator):
    """Scores rollouts in batches, for reward models, embeddings and APIs that take many at once.

        class Liked(BatchEvaluator):
            async def evaluate_batch(self, rollouts):
                return await self.model([rollout.text for rollout in rollouts])

    A batch goes off when it is full, or when its first member has waited long enough. Limits count
    batches: one call, one slot, one time limit.
    """

    entry: ClassVar[str] = "evaluate_batch"
    batch_size: int = 16
    """Rollouts in one call at most."""
    max_wait_s: float = 0.05
    """Seconds that a rollout waits for company."""

    async def evaluate(self, rollout: Rollout) -> Verdict:
        """A batch of one."""
        verdicts = self.evaluate_batch([rollout])
        return (verdicts if isinstance(verdicts, Sequence) else await verdicts)[0]

    async def evaluate_batch(self, rollouts: Sequence[Rollout]) -> Sequence[Verdict]:
        """One verdict for each rollout, in order. May be a plain `def`, which then runs in a thread."""
        raise NotImplementedError(f"{type(self).__name__} must define `evaluate_batch(self, rollouts)`")


class GroupEvaluator(Evaluator):
    """Scores one prompt's rollouts together, all or nothing.

    Called once per group, when its last rollout is there. Rollouts that are masked already (their
    environment failed, say) are not shown and stay masked. When a verdict of the group has no number, no
    member gets one.
    """

    entry: ClassVar[str] = "evaluate_group"
    min_members: int = 2
    """With fewer rollouts than this to compare, the group is masked."""

    async def evaluate(self, rollout: Rollout) -> Verdict:
        """Refuses: there is nothing to compare with."""
        raise TypeError(f"{self.name} compares rollouts and cannot score one alone; give it a group")

    async def evaluate_group(self, rollouts: Sequence[Rollout]) -> Sequence[Verdict]:
        """One verdict for each rollout, in order. May be a plain `def`, which then runs in a thread."""
        raise NotImplementedError(f"{type(self).__name__} must define `evaluate_group(self, rollouts)`")


class PairwiseEvaluator(GroupEvaluator):
    """Ranks one prompt's rollouts by comparing two at a time; a score is the share of points won.

        class Kinder(PairwiseEvaluator):
            async def compare(self, first, second):
                return await self.judge(first.text, second.text)

    Every pair is asked in both orders, as judges favour a place. Where the orders disagree on the winner
    the pair is a tie, and the share of such pairs is the metric `disagreement`. Each comparison is a call of
    its own to the limits, retries included; one that cannot be made masks the group.
    """

    entry: ClassVar[str] = "compare"
    schedule: Literal["round_robin", "swiss", "baseline"] = "round_robin"
    """`round_robin`: everyone meets everyone, n (n - 1) calls. `swiss`: ceil(log2 n) rounds among those with
    equal points, about n log2 n calls. `baseline`: everyone meets the baseline only, 2 n calls."""

    async def compare(self, first: Rollout, second: Rollout) -> float | Score:
        """How much `first` is better than `second`: 1 clearly, 0.5 equal, 0 clearly worse. May be plain."""
        raise NotImplementedError(f"{type(self).__name__} must define `compare(self, first, second)`")

    async def evaluate_group(self, rollouts: Sequence[Rollout]) -> Sequence[Verdict]:
        """Not called: the runner plays the schedule, so that every comparison has its own retries."""
        raise TypeError(f"{self.name} is asked by `compare`; rft.scoring plays its schedule")

    def baseline(self, rollouts: Sequence[Rollout]) -> Rollout:
        """Whom everyone meets under the schedule `baseline`: by default, the task's reference as an answer.

        Raises EvaluatorError when the task has none.
        """
        task = rollouts[0].task
        if task.reference is None:
            raise EvaluatorError(
                "bug", f"{self.name} compares with the reference, and task {task.id} has none"
            )
        said = Message("assistant", str(task.reference))
        return Rollout(f"{rollouts[0].group_id}/baseline", rollouts[0].group_id, task, (*task.messages, said))

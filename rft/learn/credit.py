"""Credit: what each policy token did better than expected.

Members that are masked are not in the batch, so no baseline, deviation or normaliser here can see them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from rft.learn.advantage import group_advantages
from rft.learn.batch import Batch
from rft.recipe.schema import AlgorithmSpec

Credit = Callable[[Batch], Tensor]


def assign_credit(batch: Batch, algorithm: AlgorithmSpec, credit: Credit | None = None) -> Batch:
    """The batch with every policy token carrying its sequence's advantage."""
    advantages_S = group_advantages(batch.rewards_S, batch.group_S, algorithm.scale_rewards)
    return replace(batch, advantages_N=advantages_S[batch.sequence_N])

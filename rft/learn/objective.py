"""What an optimizer step minimises: the policy's loss, its entropy bonus, and the critic's loss beside it.

Every sum is weighed by what the whole step holds, so that the gradient does not depend on how its rows are
cut. The policy's part is `rft.learn.loss`, the critic's `rft.learn.value_loss`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rft.learn.batch import Batch
from rft.learn.critic import Critic
from rft.learn.entropy import EntropyBonus, undecided
from rft.learn.forward import Forward
from rft.learn.loss import LossInputs, Surrogate, policy_loss
from rft.learn.metrics import Seen
from rft.learn.normalise import token_weights
from rft.learn.packing import MicroBatch
from rft.learn.surrogates import loss_config, loss_type
from rft.learn.value_loss import clipped_value_loss
from rft.recipe.schema import AlgorithmSpec


@dataclass
class Step:
    """One optimizer step: what its tokens count, and what has come of them so far."""

    weights_N: Tensor
    """One over the policy loss's normaliser; zero for tokens of other minibatches."""
    undecided_N: Tensor
    """bool, True: a token of this minibatch that the surrogate counts on."""
    value_weight: float
    """One over the minibatch's tokens, whatever the policy loss is divided by."""
    bonus: float
    """Of each undecided token's entropy."""
    loss: float = 0.0
    entropy: float = 0.0
    """Sum over undecided tokens, nats."""


class Objective:
    """The losses of a recipe's algorithm, row by row."""

    def __init__(
        self,
        forward: Forward,
        algorithm: AlgorithmSpec,
        bonus: EntropyBonus,
        critic: Critic | None,
        *,
        max_completion_tokens: int,
        own_loss: Surrogate | None = None,
    ) -> None:
        """
        Args:
            max_completion_tokens: sampled tokens that a rollout may have; normaliser of `dr_grpo`.
            own_loss: the function that `algorithm.loss_type` names by path, if it does.
        """
        self._forward, self._algorithm = forward, algorithm
        self._bonus, self._critic = bonus, critic
        self._max_completion_tokens = max_completion_tokens
        self._loss_type = loss_type(algorithm, own_loss)
        self.config = loss_config(algorithm, self._loss_type)

    def begin(self, batch: Batch, members: list[int]) -> Step:
        """One optimizer step over some sequences of a batch with credit."""
        steps = self._algorithm.minibatches
        ours_S = torch.zeros(len(batch.sequences), dtype=torch.bool)
        ours_S[members] = True
        ours_N = ours_S[batch.sequence_N]
        weights_N = torch.zeros(batch.num_tokens)
        weights_N[ours_N] = token_weights(
            self._loss_type.normaliser,
            batch.sequence_N[ours_N],
            batch_sequences=len(batch.sequences) / steps,
            batch_tokens=batch.num_tokens / steps,
            max_completion_tokens=self._max_completion_tokens,
        )
        undecided_N = ours_N
        if self._algorithm.entropy.top_quantile < 1.0:
            assert batch.entropy_N is not None
            undecided_N = torch.zeros_like(ours_N)
            undecided_N[ours_N] = undecided(batch.entropy_N[ours_N], self._algorithm.entropy.top_quantile)
        return Step(
            weights_N,
            undecided_N,
            value_weight=1.0 / max(1, int(ours_N.sum())),
            bonus=self._bonus.applied / max(1, int(undecided_N.sum())),
        )

    def losses(
        self, batch: Batch, row: MicroBatch, step: Step, seen: Seen, *, critic_alone: bool = False
    ) -> Iterator[Tensor]:
        """The losses of a row, to be summed over the rows of a step; what they saw goes to `step` and `seen`.

        One after another: a graph is gone before the next is built.
        """
        critic, coef = self._critic, self._algorithm.critic.coef
        if critic is None:
            yield self._policy_loss(batch, row, step, seen, *self._logprobs(row, step))
        elif critic_alone:
            # Weighed as later on, or the optimizer's moments would not fit when the policy joins.
            value_loss = self._value_loss(batch, row, step, seen, self._forward.values(row))
            yield coef * value_loss if critic.on_policy_trunk else value_loss
        elif critic.on_policy_trunk:
            policy_M, entropy_M, values_M = self._forward.logprobs_and_values(
                row, entropy_gradient=step.bonus != 0.0
            )
            loss = self._policy_loss(batch, row, step, seen, policy_M, entropy_M)
            yield loss + coef * self._value_loss(batch, row, step, seen, values_M)
        else:
            yield self._policy_loss(batch, row, step, seen, *self._logprobs(row, step))
            yield self._value_loss(batch, row, step, seen, self._forward.values(row))

    def _logprobs(self, row: MicroBatch, step: Step) -> tuple[Tensor, Tensor]:
        return self._forward.logprobs(row, entropy_gradient=step.bonus != 0.0)

    def _policy_loss(
        self, batch: Batch, row: MicroBatch, step: Step, seen: Seen, policy_M: Tensor, entropy_M: Tensor
    ) -> Tensor:
        def here(values_N: Tensor) -> Tensor:
            return values_N[row.index_M].to(self._forward.device)

        old_N, ref_N = batch.old_logprobs_N, batch.ref_logprobs_N
        undecided_M = here(step.undecided_N)
        inputs = LossInputs(
            policy_logprobs_N=policy_M,
            old_logprobs_N=policy_M.detach() if old_N is None else here(old_N),
            sampler_logprobs_N=here(batch.sampler_logprobs_N),
            advantages_N=here(batch.advantages_N),
            sequence_N=here(batch.sequence_N),
            entropy_N=entropy_M,
            ref_logprobs_N=None if ref_N is None else here(ref_N),
            undecided_N=undecided_M,
        )
        seen.add(row.index_M, inputs, self.config)
        loss = policy_loss(inputs, here(step.weights_N), self.config)
        counted = (entropy_M * undecided_M).sum()
        if step.bonus != 0.0:
            loss = loss - step.bonus * counted
        step.entropy += counted.item()
        step.loss += loss.item()
        return loss

    def _value_loss(self, batch: Batch, row: MicroBatch, step: Step, seen: Seen, values_M: Tensor) -> Tensor:
        assert batch.values_N is not None and batch.returns_N is not None
        old_M, returns_M = (
            one[row.index_M].to(self._forward.device) for one in (batch.values_N, batch.returns_N)
        )
        seen.add_values(row.index_M, values_M)
        loss_M = clipped_value_loss(values_M, old_M, returns_M, self._algorithm.critic.epsilon)
        return step.value_weight * loss_M.sum()

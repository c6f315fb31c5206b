"""A batch through the policy: which rows, at what precision, and what is read off them.

Everything that reads the policy goes through here, the update with gradient and the measuring before it
without, so that both see the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rft.learn.batch import Batch
from rft.learn.critic import Critic, overheard, trunk_states
from rft.learn.logprobs import policy_logprobs, unwrapped
from rft.learn.packing import MicroBatch, pack
from rft.learn.probe import Abilities
from rft.recipe.schema import TrainSpec


class Measured(NamedTuple):
    """Of every policy token of a batch, without gradient, float32 [N]; 0 where the batch does not train.

    None: not asked for.
    """

    logprobs_N: Tensor | None
    entropy_N: Tensor | None
    values_N: Tensor | None


class Forward:
    """Runs a policy, and the critic that listens to it, in the fastest way that is right for the model."""

    def __init__(
        self,
        model: nn.Module,
        train: TrainSpec,
        *,
        temperature: float,
        abilities: Abilities,
        autocast: bool,
        critic: Critic | None = None,
    ) -> None:
        """
        Args:
            temperature: the sampler's.
            abilities: from `rft.learn.probe.probe`.
            autocast: compute float32 weights in bfloat16.
        """
        self._model, self._train, self._critic = model, train, critic
        self._temperature = temperature
        self._abilities = abilities
        self._autocast = autocast
        self.device = next(model.parameters()).device

    def rows(self, batch: Batch, members: Iterable[int]) -> list[MicroBatch]:
        """The sequences that train among `members`, packed."""
        return pack(
            batch,
            members,
            micro_batch_tokens=self._train.micro_batch_tokens,
            packing=self._abilities.packing,
        )

    def logprobs(self, row: MicroBatch, *, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of each policy token of a row; see `policy_logprobs`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return policy_logprobs(
                self._model,
                row.to(self.device),
                temperature=self._temperature,
                chunk=self._train.logit_chunk,
                chunked_head=self._abilities.chunked_head,
                entropy_gradient=entropy_gradient,
            )

    def logprobs_and_values(
        self, row: MicroBatch, *, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and the values of a critic on the policy's trunk, from one pass through it."""
        assert self._critic is not None
        with overheard(self._model) as states:
            policy_M, entropy_M = self.logprobs(row, entropy_gradient=entropy_gradient)
        return policy_M, entropy_M, self._critic(row.to(self.device), states[0])

    def values(self, row: MicroBatch) -> Tensor:
        """The critic's values of a row's policy tokens, [M]; of the policy's trunk, only what the head needs.

        No gradient reaches the policy.
        """
        assert self._critic is not None
        row = row.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            if not self._critic.on_policy_trunk:
                return self._critic(row)
            with torch.no_grad():
                hidden_TD = trunk_states(unwrapped(self._model).get_decoder(), row)
            return self._critic(row, hidden_TD)

    @torch.no_grad()
    def measure(self, batch: Batch, *, logprobs: bool, values: bool = False) -> Measured:
        """Reads a whole batch as it is now, in evaluation mode.

        Args:
            logprobs: read log-probabilities and entropies; without, the policy's head is not computed.
            values: read the critic's values.
        """
        modules = [self._model, *([self._critic] if self._critic is not None else [])]
        were_training = [module.training for module in modules]
        for module in modules:
            module.eval()
        logprobs_N, entropy_N, values_N = (torch.zeros(batch.num_tokens) for _ in range(3))
        for row in self.rows(batch, range(len(batch.sequences) if logprobs or values else 0)):
            index_M = row.index_M
            if logprobs and values and self._critic is not None and self._critic.on_policy_trunk:
                logprobs_M, entropy_M, values_M = self.logprobs_and_values(row)
                logprobs_N[index_M], entropy_N[index_M] = logprobs_M.cpu(), entropy_M.cpu()
                values_N[index_M] = values_M.cpu()
                continue
            if logprobs:
                logprobs_M, entropy_M = self.logprobs(row)
                logprobs_N[index_M], entropy_N[index_M] = logprobs_M.cpu(), entropy_M.cpu()
            if values:
                values_N[index_M] = self.values(row).cpu()
        for module, was_training in zip(modules, were_training, strict=True):
            module.train(was_training)
        return Measured(
            logprobs_N if logprobs else None, entropy_N if logprobs else None, values_N if values else None
        )

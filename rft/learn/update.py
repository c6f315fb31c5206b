"""One batch becomes optimizer steps: pack, forward, loss, backward, step.

On policy (one pass, one minibatch) the policy before the update is the policy in the loss, so its
log-probabilities are the loss's own, detached, and no second forward is run. Otherwise they are
computed once, before the first step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rft.learn.batch import Batch
from rft.learn.entropy import EntropyBonus, undecided
from rft.learn.kl import kl_estimate
from rft.learn.logprobs import policy_logprobs
from rft.learn.loss import LossConfig, LossInputs, Surrogate, log_ratios, policy_loss
from rft.learn.metrics import ratio_metrics, sampler_metrics
from rft.learn.normalise import token_weights
from rft.learn.optimizer import PolicyOptimizer
from rft.learn.packing import MicroBatch, pack
from rft.learn.probe import Abilities
from rft.learn.reference import Reference
from rft.learn.surrogates import loss_config, loss_type
from rft.recipe.schema import AlgorithmSpec, TrainSpec


@dataclass
class UpdateStats:
    """What one update did."""

    loss: float = 0.0
    """Mean over the optimizer steps."""
    steps: int = 0
    """Optimizer steps applied."""
    steps_skipped: int = 0
    """Steps not applied because the loss or the gradient was not finite."""
    grad_norm: float = 0.0
    """Before clipping; of the last step."""
    learning_rate: float = 0.0
    micro_batches: int = 0
    row_tokens: int = 0
    """Tokens that went through the trunk, with gradient."""
    forward_s: float = 0.0
    """Log-probabilities without gradient included."""
    backward_s: float = 0.0
    optimizer_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    """See `rft.learn.metrics`; empty when no token was trained on."""


class Updater:
    """Applies batches to a model through an optimizer."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: PolicyOptimizer,
        algorithm: AlgorithmSpec,
        train: TrainSpec,
        *,
        temperature: float,
        max_completion_tokens: int,
        abilities: Abilities,
        autocast: bool = False,
        reference: nn.Module | None = None,
        own_loss: Surrogate | None = None,
    ) -> None:
        """
        Args:
            model: the policy.
            optimizer: over the policy's parameters.
            temperature: the sampler's.
            max_completion_tokens: sampled tokens that a rollout may have; normaliser of `dr_grpo`.
            abilities: from `rft.learn.probe.probe`.
            autocast: compute float32 weights in bfloat16.
            reference: frozen starting model for the KL term; unset, the policy with its adapters disabled.
            own_loss: the function that `algorithm.loss_type` names by path, if it does.

        Raises ValueError when `algorithm.beta` is not 0 and there is neither a reference nor an adapter.
        """
        self._model = model
        self.reference = Reference(model, algorithm.kl, reference) if algorithm.beta != 0.0 else None
        self.entropy_bonus = EntropyBonus(algorithm.entropy)
        self.optimizer = optimizer
        self._algorithm, self._train = algorithm, train
        self._temperature = temperature
        self._max_completion_tokens = max_completion_tokens
        self._abilities = abilities
        self._autocast = autocast
        self.device = next(model.parameters()).device
        self._measured_s = 0.0
        in_reward = algorithm.beta != 0.0 and algorithm.kl.place == "reward"
        self._needs_old = algorithm.num_iterations > 1 or algorithm.minibatches > 1 or in_reward
        self._picks_tokens = algorithm.entropy.top_quantile < 1.0
        self._loss_type = loss_type(algorithm, own_loss)
        self._config = loss_config(algorithm, self._loss_type)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the parameters; tensors are not copied."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "entropy": self.entropy_bonus.state(),
            "reference": None if self.reference is None else self.reference.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict()`. Raises ValueError, with nothing changed, when it is of other parameters."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.entropy_bonus.restore(state["entropy"])
        if self.reference is not None and state["reference"] is not None:
            self.reference.restore(state["reference"])

    def measure(self, batch: Batch) -> Batch:
        """The batch with what credit and loss compare with, computed before anything moves."""
        started = self._now()
        logprobs_N = entropy_N = ref_N = None
        if self._needs_old or self._picks_tokens:
            logprobs_N, entropy_N = self._read(batch)
        if self.reference is not None:
            with self.reference.active():
                ref_N = self.logprobs(batch)
        batch = replace(
            batch,
            old_logprobs_N=logprobs_N if self._needs_old else None,
            entropy_N=entropy_N if self._picks_tokens else None,
            ref_logprobs_N=ref_N,
        )
        self._measured_s = self._now() - started
        return batch

    def update(
        self, batch: Batch, *, writing: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> UpdateStats:
        """Runs the passes and optimizer steps for a measured batch with credit; changes the model in place.

        Args:
            writing: held around each optimizer step, for whoever else reads the parameters.

        Raises ValueError for a batch that was not measured and has to be.
        """
        if (
            (self._needs_old and batch.old_logprobs_N is None)
            or (self._picks_tokens and batch.entropy_N is None)
            or (self.reference is not None and batch.ref_logprobs_N is None)
        ):
            raise ValueError("the batch was not measured: pass it through Updater.measure first")
        stats = UpdateStats(forward_s=self._measured_s)
        algorithm = self._algorithm
        minibatches = [
            part for part in batch.minibatches(algorithm.minibatches) if batch.trains_S[part].any()
        ]
        seen = _Seen()
        for _ in range(algorithm.num_iterations):
            for members in minibatches:
                self._step(batch, members, stats, seen, writing)
        stats.loss /= max(1, stats.steps + stats.steps_skipped)
        stats.metrics = seen.metrics(batch, self._config)
        if self.reference is not None:
            self.reference.follow()
        return stats

    def logprobs(self, batch: Batch) -> Tensor:
        """Log-probabilities of a batch's policy tokens now, float32 [N]; 0 where the batch does not train."""
        return self._read(batch)[0]

    @torch.no_grad()
    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """`logprobs`, and entropies in nats likewise."""
        was_training = self._model.training
        self._model.eval()
        logprobs_N, entropy_N = torch.zeros(batch.num_tokens), torch.zeros(batch.num_tokens)
        for row in self._rows(batch, list(range(len(batch.sequences)))):
            logprobs_M, entropy_M = self._forward(self._model, row)
            logprobs_N[row.index_M], entropy_N[row.index_M] = logprobs_M.cpu(), entropy_M.cpu()
        self._model.train(was_training)
        return logprobs_N, entropy_N

    def _step(
        self,
        batch: Batch,
        members: list[int],
        stats: UpdateStats,
        seen: _Seen,
        writing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        weights_N = self._weights(batch, members)
        undecided_N = self._undecided(batch, members)
        bonus = self.entropy_bonus.applied / max(1, int(undecided_N.sum()))
        entropy_sum = loss_sum = 0.0
        self._model.train()
        for row in self._rows(batch, members):
            started = self._now()
            policy_M, entropy_M = self._forward(self._model, row, entropy_gradient=bonus != 0.0)
            inputs = self._inputs(batch, row.index_M, policy_M, entropy_M, undecided_N)
            loss = policy_loss(inputs, weights_N[row.index_M].to(self.device), self._config)
            counted = (entropy_M * inputs.undecided_N).sum()
            if bonus != 0.0:
                loss = loss - bonus * counted
            entropy_sum += counted.item()
            forwarded = self._now()
            loss.backward()
            stats.backward_s += self._now() - forwarded
            stats.forward_s += forwarded - started
            loss_sum += loss.item()
            stats.micro_batches += 1
            stats.row_tokens += row.token_ids_T.numel()
            seen.add(row.index_M, inputs, self._config)
        started = self._now()
        with writing():
            step = self.optimizer.step(loss=loss_sum)
        stats.optimizer_s += self._now() - started
        stats.loss += loss_sum
        if step.applied:  # what did not move the policy must not move the bonus, least of all to NaN
            self.entropy_bonus.saw(entropy_sum / max(1, int(undecided_N.sum())))
        stats.steps += step.applied
        stats.steps_skipped += not step.applied
        stats.grad_norm, stats.learning_rate = step.grad_norm, step.learning_rate

    def _inputs(
        self, batch: Batch, index_M: Tensor, policy_M: Tensor, entropy_M: Tensor, undecided_N: Tensor
    ) -> LossInputs:
        def here(values_N: Tensor) -> Tensor:
            return values_N[index_M].to(self.device)

        old_N, ref_N = batch.old_logprobs_N, batch.ref_logprobs_N
        return LossInputs(
            policy_logprobs_N=policy_M,
            old_logprobs_N=policy_M.detach() if old_N is None else here(old_N),
            sampler_logprobs_N=here(batch.sampler_logprobs_N),
            advantages_N=here(batch.advantages_N),
            sequence_N=here(batch.sequence_N),
            entropy_N=entropy_M,
            ref_logprobs_N=None if ref_N is None else here(ref_N),
            undecided_N=here(undecided_N),
        )

    def _undecided(self, batch: Batch, members: list[int]) -> Tensor:
        """bool [N], True: a token of this minibatch that the surrogate counts on."""
        ours_N = _tokens_of(batch, members)
        if batch.entropy_N is None or not self._picks_tokens:
            return ours_N
        undecided_N = torch.zeros_like(ours_N)
        undecided_N[ours_N] = undecided(batch.entropy_N[ours_N], self._algorithm.entropy.top_quantile)
        return undecided_N

    def _weights(self, batch: Batch, members: list[int]) -> Tensor:
        """One over the normaliser, on the batch's axis N; zero for tokens of other minibatches."""
        steps = self._algorithm.minibatches
        ours_N = _tokens_of(batch, members)
        weights_N = torch.zeros(batch.num_tokens)
        weights_N[ours_N] = token_weights(
            self._loss_type.normaliser,
            batch.sequence_N[ours_N],
            batch_sequences=len(batch.sequences) / steps,
            batch_tokens=batch.num_tokens / steps,
            max_completion_tokens=self._max_completion_tokens,
        )
        return weights_N

    def _rows(self, batch: Batch, members: list[int]) -> list[MicroBatch]:
        return pack(
            batch,
            members,
            micro_batch_tokens=self._train.micro_batch_tokens,
            packing=self._abilities.packing,
        )

    def _forward(
        self, model: nn.Module, row: MicroBatch, *, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return policy_logprobs(
                model,
                row.to(self.device),
                temperature=self._temperature,
                chunk=self._train.logit_chunk,
                chunked_head=self._abilities.chunked_head,
                entropy_gradient=entropy_gradient,
            )

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


def _tokens_of(batch: Batch, members: list[int]) -> Tensor:
    """bool [N], True: a token of one of these sequences."""
    ours_S = torch.zeros(len(batch.sequences), dtype=torch.bool)
    ours_S[members] = True
    return ours_S[batch.sequence_N]


class _Seen:
    """Per-token values of all passes, kept for the metrics: a few floats per token."""

    def __init__(self) -> None:
        self._index: list[Tensor] = []
        self._policy: list[Tensor] = []
        self._old: list[Tensor] = []
        self._ratio: list[Tensor] = []
        self._entropy: list[Tensor] = []

    @torch.no_grad()
    def add(self, index_M: Tensor, inputs: LossInputs, config: LossConfig) -> None:
        self._index.append(index_M)
        self._policy.append(inputs.policy_logprobs_N.detach().cpu())
        self._old.append(inputs.old_logprobs_N.cpu())
        self._ratio.append(log_ratios(inputs, config.importance_level).exp().cpu())
        self._entropy.append(inputs.entropy_N.detach().cpu())

    def metrics(self, batch: Batch, config: LossConfig) -> dict[str, float]:
        if not self._index:
            return {}
        index_K, policy_K = torch.cat(self._index), torch.cat(self._policy)
        old_N = torch.full((batch.num_tokens,), float("nan"))
        old_N[index_K] = torch.cat(self._old)
        trained_N = batch.trains_S[batch.sequence_N]
        out = ratio_metrics(torch.cat(self._ratio), batch.advantages_N[index_K], config)
        out |= sampler_metrics(
            old_N[trained_N],
            batch.sampler_logprobs_N[trained_N],
            batch.sequence_N[trained_N],
            config.mismatch,
        )
        out["entropy"] = torch.cat(self._entropy).mean().item()
        if batch.ref_logprobs_N is not None:
            out["ref_kl"] = kl_estimate(policy_K, batch.ref_logprobs_N[index_K], "k3").mean().item()
        return out


def build_optimizer(model: nn.Module, algorithm: AlgorithmSpec, train: TrainSpec) -> PolicyOptimizer:
    """The optimizer a recipe asks for, its schedule laid over the whole run's optimizer steps."""
    spec = train.optimizer
    adapter = hasattr(model, "disable_adapter")
    return PolicyOptimizer(
        model.named_parameters(),
        learning_rate=train.learning_rate or (1e-4 if adapter else 1e-5),
        total_steps=train.steps * algorithm.num_iterations * algorithm.minibatches,
        betas=spec.betas,
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        schedule=spec.schedule,
        warmup_steps=spec.warmup_steps,
        max_grad_norm=train.max_grad_norm,
        master_weights=spec.master_weights,
    )

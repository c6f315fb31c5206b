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

import torch
from torch import Tensor, nn

from rft.learn.batch import Batch
from rft.learn.logprobs import policy_logprobs
from rft.learn.loss import LossConfig, policy_loss, token_weights
from rft.learn.metrics import ratio_metrics, sampler_metrics
from rft.learn.optimizer import PolicyOptimizer
from rft.learn.packing import MicroBatch, pack
from rft.learn.probe import Abilities
from rft.recipe.schema import AlgorithmSpec, TrainSpec


@dataclass
class UpdateStats:
    """What one update did."""

    loss: float = 0.0
    """Mean over the optimizer steps."""
    steps: int = 0
    """Optimizer steps applied."""
    steps_skipped: int = 0
    """Steps with a gradient that was not finite."""
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
    ) -> None:
        """
        Args:
            model: the policy.
            optimizer: over the policy's parameters.
            temperature: the sampler's.
            max_completion_tokens: sampled tokens that a rollout may have; normaliser of `dr_grpo`.
            abilities: from `rft.learn.probe.probe`.
            autocast: compute float32 weights in bfloat16.
            reference: frozen model for the KL term; unset, the policy with its adapters disabled.

        Raises ValueError when `algorithm.beta` is not 0 and there is neither a reference nor an adapter.
        """
        if algorithm.beta != 0.0 and reference is None and not hasattr(model, "disable_adapter"):
            raise ValueError("algorithm.beta is not 0: give a reference model, or train an adapter")
        self._model, self._reference = model, reference
        self.optimizer = optimizer
        self._algorithm, self._train = algorithm, train
        self._temperature = temperature
        self._max_completion_tokens = max_completion_tokens
        self._abilities = abilities
        self._autocast = autocast
        self.device = next(model.parameters()).device
        self._measured_s = 0.0
        self._moves_within = algorithm.num_iterations > 1 or algorithm.minibatches > 1
        self._has_kl = algorithm.beta != 0.0
        mismatch = algorithm.mismatch
        self._config = LossConfig(
            epsilon_low=algorithm.epsilon,
            epsilon_high=algorithm.epsilon if algorithm.epsilon_high is None else algorithm.epsilon_high,
            beta=algorithm.beta,
            mismatch_mode=mismatch.mode,
            mismatch_level=mismatch.level,
            mismatch_clip_max=mismatch.clip_max,
        )

    def measure(self, batch: Batch) -> Batch:
        """The batch with what credit and loss compare with, computed before anything moves."""
        started = self._now()
        batch = replace(
            batch,
            old_logprobs_N=self.logprobs(batch) if self._moves_within else None,
            ref_logprobs_N=self._reference_logprobs(batch) if self._has_kl else None,
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
        if (self._moves_within and batch.old_logprobs_N is None) or (
            self._has_kl and batch.ref_logprobs_N is None
        ):
            raise ValueError("the batch was not measured: pass it through Updater.measure first")
        stats = UpdateStats(forward_s=self._measured_s)
        algorithm = self._algorithm
        minibatches = [
            part for part in batch.minibatches(algorithm.minibatches) if batch.trains_S[part].any()
        ]
        old_N, ref_N = batch.old_logprobs_N, batch.ref_logprobs_N
        seen = _Seen()
        for _ in range(algorithm.num_iterations):
            for members in minibatches:
                self._step(batch, members, old_N, ref_N, stats, seen, writing)
        stats.loss /= max(1, stats.steps + stats.steps_skipped)
        stats.metrics = seen.metrics(batch, ref_N, self._config)
        return stats

    @torch.no_grad()
    def logprobs(self, batch: Batch, model: nn.Module | None = None) -> Tensor:
        """Log-probabilities of a batch's policy tokens now, float32 [N]; 0 where the batch does not train."""
        model = self._model if model is None else model
        was_training = model.training
        model.eval()
        logprobs_N = torch.zeros(batch.num_tokens)
        for row in self._rows(batch, list(range(len(batch.sequences)))):
            logprobs_N[row.index_M] = self._forward(model, row)[0].cpu()
        model.train(was_training)
        return logprobs_N

    def _reference_logprobs(self, batch: Batch) -> Tensor:
        if self._reference is not None:
            return self.logprobs(batch, self._reference)
        disable: Callable = self._model.disable_adapter  # type: ignore[assignment]  # peft's, checked in __init__
        with disable():
            return self.logprobs(batch)

    def _step(
        self,
        batch: Batch,
        members: list[int],
        old_N: Tensor | None,
        ref_N: Tensor | None,
        stats: UpdateStats,
        seen: _Seen,
        writing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        weights_N = self._weights(batch, members)
        self._model.train()
        for row in self._rows(batch, members):
            index_M = row.index_M
            started = self._now()
            policy_M, entropy_M = self._forward(self._model, row)
            loss = policy_loss(
                policy_M,
                old_logprobs_N=policy_M.detach() if old_N is None else old_N[index_M].to(self.device),
                sampler_logprobs_N=batch.sampler_logprobs_N[index_M].to(self.device),
                advantages_N=batch.advantages_N[index_M].to(self.device),
                weights_N=weights_N[index_M].to(self.device),
                sequence_N=batch.sequence_N[index_M].to(self.device),
                ref_logprobs_N=None if ref_N is None else ref_N[index_M].to(self.device),
                config=self._config,
            )
            forwarded = self._now()
            loss.backward()
            stats.backward_s += self._now() - forwarded
            stats.forward_s += forwarded - started
            stats.loss += loss.item()
            stats.micro_batches += 1
            stats.row_tokens += row.token_ids_T.numel()
            seen.add(index_M, policy_M, entropy_M, old_N)
        started = self._now()
        with writing():
            step = self.optimizer.step()
        stats.optimizer_s += self._now() - started
        stats.steps += step.applied
        stats.steps_skipped += not step.applied
        stats.grad_norm, stats.learning_rate = step.grad_norm, step.learning_rate

    def _weights(self, batch: Batch, members: list[int]) -> Tensor:
        """One over the normaliser, on the batch's axis N; zero for tokens of other minibatches."""
        steps = self._algorithm.minibatches
        ours_S = torch.zeros(len(batch.sequences), dtype=torch.bool)
        ours_S[members] = True
        ours_N = ours_S[batch.sequence_N]
        weights_N = torch.zeros(batch.num_tokens)
        weights_N[ours_N] = token_weights(
            self._algorithm.loss_type,
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

    def _forward(self, model: nn.Module, row: MicroBatch) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return policy_logprobs(
                model,
                row.to(self.device),
                temperature=self._temperature,
                chunk=self._train.logit_chunk,
                chunked_head=self._abilities.chunked_head,
            )

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


class _Seen:
    """Per-token values of all passes, kept for the metrics: a few floats per token."""

    def __init__(self) -> None:
        self._index: list[Tensor] = []
        self._policy: list[Tensor] = []
        self._old: list[Tensor] = []
        self._entropy: list[Tensor] = []

    def add(self, index_M: Tensor, policy_M: Tensor, entropy_M: Tensor, old_N: Tensor | None) -> None:
        policy_M = policy_M.detach().cpu()
        self._index.append(index_M)
        self._policy.append(policy_M)
        self._old.append(policy_M if old_N is None else old_N[index_M])
        self._entropy.append(entropy_M.cpu())

    def metrics(self, batch: Batch, ref_N: Tensor | None, config: LossConfig) -> dict[str, float]:
        if not self._index:
            return {}
        index_K, policy_K, old_K = torch.cat(self._index), torch.cat(self._policy), torch.cat(self._old)
        old_N = torch.full((batch.num_tokens,), float("nan"))
        old_N[index_K] = old_K
        trained_N = batch.trains_S[batch.sequence_N]
        out = ratio_metrics(policy_K, old_K, batch.advantages_N[index_K], config)
        out |= sampler_metrics(
            old_N[trained_N], batch.sampler_logprobs_N[trained_N], batch.sequence_N[trained_N], config
        )
        out["entropy"] = torch.cat(self._entropy).mean().item()
        if ref_N is not None:
            difference_K = ref_N[index_K] - policy_K
            out["ref_kl"] = (difference_K.exp() - difference_K - 1.0).mean().item()
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

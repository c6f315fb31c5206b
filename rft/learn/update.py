"""One batch becomes optimizer steps: pack, forward, loss, backward, step.

On policy (one pass, one minibatch) the policy before the update is the policy in the loss, so its
log-probabilities are the loss's own, detached, and no second forward is run. Otherwise they are
computed once, before the first step. A critic's values are always computed before, because credit needs
those of the whole batch; for a head on the policy's trunk that is one pass for both.

A step whose loss or gradient is not finite is not applied.
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
from rft.learn.critic import Critic
from rft.learn.entropy import EntropyBonus
from rft.learn.forward import Forward
from rft.learn.loss import Surrogate
from rft.learn.metrics import Seen
from rft.learn.objective import Objective
from rft.learn.optimizer import PolicyOptimizer, learning_rate
from rft.learn.probe import Abilities
from rft.learn.reference import Reference
from rft.recipe.schema import AlgorithmSpec, TrainSpec


@dataclass
class UpdateStats:
    """What one update did."""

    loss: float = 0.0
    """The policy's, mean over the optimizer steps; NaN or infinite when one of them was."""
    steps: int = 0
    """Optimizer steps of the policy that were applied."""
    steps_skipped: int = 0
    """Steps not applied, because a loss or a gradient was not finite."""
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
    """Applies batches to a policy, and to its critic where there is one, through their optimizers."""

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
        seed: int = 0,
        autocast: bool = False,
        reference: nn.Module | None = None,
        own_loss: Surrogate | None = None,
        critic: Critic | None = None,
    ) -> None:
        """
        Args:
            model: the policy.
            optimizer: over the policy's parameters.
            temperature: the sampler's.
            max_completion_tokens: sampled tokens that a rollout may have; normaliser of `dr_grpo`.
            abilities: from `rft.learn.probe.probe`.
            seed: of what is drawn at random (an adapter's dropout), together with the update's number.
            autocast: compute float32 weights in bfloat16.
            reference: frozen starting model for the KL term; unset, the policy with its adapters disabled.
            own_loss: the function that `algorithm.loss_type` names by path, if it does.
            critic: needed by `algorithm.kind: ppo`, and by nothing else.

        Raises ValueError when `algorithm.beta` is not 0 and there is neither a reference nor an adapter, or
        for a critic that is missing or not needed.
        """
        if (algorithm.kind == "ppo") != (critic is not None):
            raise ValueError(
                f"algorithm.kind is {algorithm.kind}: PPO needs a critic, nothing else takes one"
            )
        self._model = model
        self.reference = Reference(model, algorithm.kl, reference) if algorithm.beta != 0.0 else None
        self.entropy_bonus = EntropyBonus(algorithm.entropy)
        self.optimizer, self.critic = optimizer, critic
        self._algorithm = algorithm
        self._forward = Forward(
            model, train, temperature=temperature, abilities=abilities, autocast=autocast, critic=critic
        )
        self.device = self._forward.device
        self._seed = seed
        self._updates = 0
        self._measured_s = 0.0
        in_reward = algorithm.beta != 0.0 and algorithm.kl.place == "reward"
        self._needs_old = algorithm.num_iterations > 1 or algorithm.minibatches > 1 or in_reward
        self._picks_tokens = algorithm.entropy.top_quantile < 1.0
        self._objective = Objective(
            self._forward,
            algorithm,
            self.entropy_bonus,
            critic,
            max_completion_tokens=max_completion_tokens,
            own_loss=own_loss,
        )

    @property
    def warming_up(self) -> bool:
        """Whether the next update trains the critic alone."""
        return self.critic is not None and self._updates < self._algorithm.critic.warmup_steps

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the policy's parameters; tensors are not copied."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "entropy": self.entropy_bonus.state(),
            "reference": None if self.reference is None else self.reference.state(),
            "critic": None if self.critic is None else self.critic.state(),
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict()`. A part that it does not have starts fresh.

        Raises ValueError, before the policy or its optimizer have changed, when it is of other parameters.
        """
        if self.critic is not None and state["critic"] is not None:
            self.critic.restore(state["critic"])
        if self.critic is None or state["critic"] is not None:  # a critic that starts fresh warms up first
            self._updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.entropy_bonus.restore(state["entropy"])
        if self.reference is not None and state["reference"] is not None:
            self.reference.restore(state["reference"])

    def measure(self, batch: Batch) -> Batch:
        """The batch with what credit and loss compare with, computed before anything moves."""
        # Not where torch's generator happens to be: the sampler draws from it too, as often as it likes.
        torch.manual_seed(self._seed * 1_000_003 + self._updates)
        started = self._now()
        measured = self._forward.measure(
            batch, logprobs=self._needs_old or self._picks_tokens, values=self.critic is not None
        )
        ref_N = None
        if self.reference is not None:
            with self.reference.active():
                ref_N = self.logprobs(batch)
        batch = replace(
            batch,
            old_logprobs_N=measured.logprobs_N if self._needs_old else None,
            entropy_N=measured.entropy_N if self._picks_tokens else None,
            ref_logprobs_N=ref_N,
            values_N=measured.values_N,
        )
        self._measured_s = self._now() - started
        return batch

    def update(
        self, batch: Batch, *, writing: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> UpdateStats:
        """Runs the passes and optimizer steps for a measured batch with credit; changes the model in place.

        Args:
            writing: held around each optimizer step, for whoever else reads the parameters.

        Raises ValueError for a batch that was not measured and has to be, or has no returns for a critic.
        """
        if (
            (self._needs_old and batch.old_logprobs_N is None)
            or (self._picks_tokens and batch.entropy_N is None)
            or (self.reference is not None and batch.ref_logprobs_N is None)
            or (self.critic is not None and batch.values_N is None)
        ):
            raise ValueError("the batch was not measured: pass it through Updater.measure first")
        if self.critic is not None and batch.num_tokens and batch.returns_N is None:
            raise ValueError("the batch has no returns: pass it through assign_credit first")
        stats = UpdateStats(forward_s=self._measured_s)
        algorithm = self._algorithm
        minibatches = [
            part for part in batch.minibatches(algorithm.minibatches) if batch.trains_S[part].any()
        ]
        seen = Seen()
        for _ in range(algorithm.num_iterations):
            for members in minibatches:
                self._step(batch, members, stats, seen, writing)
        stats.loss /= max(1, algorithm.num_iterations * len(minibatches))
        stats.metrics = seen.metrics(batch, self._objective.config, algorithm.critic.epsilon)
        if self.entropy_bonus.enabled:
            stats.metrics["entropy_coef"] = self.entropy_bonus.coef
        if self.reference is not None:
            self.reference.follow()
        self._updates += 1
        return stats

    def logprobs(self, batch: Batch) -> Tensor:
        """Log-probabilities of a batch's policy tokens now, float32 [N]; 0 where the batch does not train."""
        logprobs_N = self._forward.measure(batch, logprobs=True).logprobs_N
        assert logprobs_N is not None
        return logprobs_N

    def _step(
        self,
        batch: Batch,
        members: list[int],
        stats: UpdateStats,
        seen: Seen,
        writing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        step = self._objective.begin(batch, members)
        self._model.train()
        if self.critic is not None:
            self.critic.train()
        total = 0.0
        started = self._now()
        for row in self._forward.rows(batch, members):
            stats.micro_batches += 1
            stats.row_tokens += row.token_ids_T.numel()
            for loss in self._objective.losses(batch, row, step, seen, critic_alone=self.warming_up):
                total += loss.item()
                forwarded = self._now()
                loss.backward()
                stats.forward_s += forwarded - started
                started = self._now()
                stats.backward_s += started - forwarded
        stats.loss += step.loss
        applied = True
        with writing():  # the critic's step too: a checkpoint may be reading it
            if not self.warming_up:
                done = self.optimizer.step(loss=total)
                stats.grad_norm, stats.learning_rate = done.grad_norm, done.learning_rate
                stats.steps += done.applied
                applied = done.applied
                if applied:  # what did not move the policy must not move the bonus, least of all to NaN
                    self.entropy_bonus.saw(step.entropy / max(1, int(step.undecided_N.sum())))
            if self.critic is not None:
                applied = self.critic.optimizer.step(loss=total).applied and applied
        stats.steps_skipped += not applied
        stats.optimizer_s += self._now() - started

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()


def build_optimizer(model: nn.Module, algorithm: AlgorithmSpec, train: TrainSpec) -> PolicyOptimizer:
    """The policy's, as a recipe asks for it, its schedule laid over all steps in which the policy moves."""
    waits = algorithm.critic.warmup_steps if algorithm.kind == "ppo" else 0
    return PolicyOptimizer.by_recipe(
        model.named_parameters(),
        train,
        learning_rate=learning_rate(model, train),
        total_steps=(train.steps - waits) * algorithm.num_iterations * algorithm.minibatches,
    )

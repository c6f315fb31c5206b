"""AdamW that writes into the parameters' own memory, because an inference engine may be reading it.

float32 parameters: torch's fused AdamW on the parameters themselves. bfloat16 parameters have 8 bits
of mantissa, so an update smaller than 1/256 of a weight is lost; with `master_weights` the optimizer
keeps float32 copies and moments, gradients are added up in float32 as each one is finished (and the
bfloat16 gradient freed at once), and a step rounds the masters into the parameters in place.

A gradient with NaN or infinity, or that of such a loss, is never applied: the step is counted as skipped and
nothing moves but the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rft.recipe.schema import TrainSpec

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class StepStats:
    """One optimizer step."""

    applied: bool
    """False when the loss or the gradient was not finite."""
    grad_norm: float
    """Global L2 norm before clipping."""
    learning_rate: float


def schedule_factor(step: int, *, schedule: Schedule, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step counted from 0.

    Warm-up rises linearly and reaches 1 at step `warmup_steps`; then `linear` and `cosine` fall towards 0,
    which they would reach at `total_steps`: no step of a run has a rate of zero.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))


def learning_rate(model: nn.Module, train: TrainSpec) -> float:
    """The recipe's peak rate for the policy; where it names none, ten times as high for an adapter."""
    return train.learning_rate or (1e-4 if hasattr(model, "disable_adapter") else 1e-5)


class PolicyOptimizer:
    """Fused AdamW, gradient clipping, schedule and float32 masters over a model's trainable parameters.

    Call `backward()` on losses as often as needed, then `step()` once.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        total_steps: int,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        max_grad_norm: float = 1.0,
        master_weights: bool = True,
    ) -> None:
        """`named_parameters`: as `model.named_parameters()`; frozen and repeated (tied) ones are passed over.

        Raises ValueError when nothing is trainable.
        """
        unique = {parameter: name for name, parameter in named_parameters if parameter.requires_grad}
        if not unique:
            raise ValueError("the model has no trainable parameter: unfreeze some or add an adapter")
        self.names = list(unique.values())
        self.parameters = list(unique)
        self._rate = learning_rate
        self._schedule: Schedule = schedule
        self._warmup_steps, self._total_steps = warmup_steps, total_steps
        self._max_grad_norm = max_grad_norm
        self.steps = 0
        """Steps asked for, skipped ones included: the schedule's clock."""
        self.skipped = 0
        """Steps not applied because the loss or the gradient was not finite."""
        self._hooks: list[Any] = []
        self._trained = [
            self._master(parameter) if master_weights and parameter.dtype != torch.float32 else parameter
            for parameter in self.parameters
        ]
        self._adamw = torch.optim.AdamW(
            self._trained, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True
        )

    @classmethod
    def by_recipe(
        cls,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        train: TrainSpec,
        *,
        learning_rate: float,
        total_steps: int,
    ) -> PolicyOptimizer:
        """With the settings of a recipe, its schedule laid over `total_steps`."""
        spec = train.optimizer
        return cls(
            named_parameters,
            learning_rate=learning_rate,
            total_steps=total_steps,
            betas=spec.betas,
            eps=spec.eps,
            weight_decay=spec.weight_decay,
            schedule=spec.schedule,
            warmup_steps=spec.warmup_steps,
            max_grad_norm=train.max_grad_norm,
            master_weights=spec.master_weights,
        )

    def _master(self, parameter: nn.Parameter) -> Tensor:
        master = parameter.detach().float()

        def collect(finished: Tensor) -> None:
            assert finished.grad is not None
            if master.grad is None:
                master.grad = finished.grad.float()
            else:
                master.grad += finished.grad
            finished.grad = None

        self._hooks.append(parameter.register_post_accumulate_grad_hook(collect))
        return master

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return self._rate * schedule_factor(
            self.steps,
            schedule=self._schedule,
            warmup_steps=self._warmup_steps,
            total_steps=self._total_steps,
        )

    @torch.no_grad()
    def step(self, *, loss: float = 0.0) -> StepStats:
        """Clips, steps, writes the parameters in place and clears the gradients.

        Args:
            loss: what was differentiated; one that is not finite may still have finite gradients, of nothing
                that was wanted, and is not applied either.
        """
        rate = self.learning_rate
        self.steps += 1
        gradients = [tensor.grad for tensor in self._trained if tensor.grad is not None]
        norm_tensor = nn.utils.get_total_norm(gradients)
        norm = norm_tensor.item()
        applied = math.isfinite(norm) and math.isfinite(loss)
        if applied:
            if norm > self._max_grad_norm:
                nn.utils.clip_grads_with_norm_(self._trained, self._max_grad_norm, norm_tensor)
            for settings in self._adamw.param_groups:
                settings["lr"] = rate
            self._adamw.step()
            self._write_parameters()
        else:
            self.skipped += 1
        self.zero_grad()
        return StepStats(applied=applied, grad_norm=norm, learning_rate=rate)

    def zero_grad(self) -> None:
        """Forgets what was accumulated."""
        self._adamw.zero_grad(set_to_none=True)

    def _write_parameters(self) -> None:
        for parameter, trained in zip(self.parameters, self._trained, strict=True):
            if parameter is not trained:
                parameter.copy_(trained)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact continuation needs beside the parameters; tensors are not copied."""
        masters = {
            name: trained
            for name, parameter, trained in zip(self.names, self.parameters, self._trained, strict=True)
            if parameter is not trained
        }
        return {
            "names": self.names,
            "adamw": self._adamw.state_dict(),
            "masters": masters,
            "steps": self.steps,
            "skipped": self.skipped,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict()`; with master weights the parameters are written too. Rates, betas and the
        like stay as they were built: they are the recipe's.

        Raises ValueError when the state is of other parameters.
        """
        if state["names"] != self.names:
            strange = sorted(set(state["names"]) ^ set(self.names))[:5]
            raise ValueError(
                f"the optimizer state is of another model: {len(state['names'])} trained tensors in it, "
                f"{len(self.names)} here; differing: {', '.join(strange) or 'their order'}"
            )
        masters = {
            name
            for name, parameter, trained in zip(self.names, self.parameters, self._trained, strict=True)
            if parameter is not trained
        }
        if set(state["masters"]) != masters:
            raise ValueError(
                f"the optimizer state has {len(state['masters'])} float32 masters, {len(masters)} are "
                f"needed: model.dtype or train.optimizer.master_weights is not as it was"
            )
        settings = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self._adamw.param_groups
        ]
        self._adamw.load_state_dict(state["adamw"])
        for group, ours in zip(self._adamw.param_groups, settings, strict=True):
            group.update(ours)
        for name, parameter, trained in zip(self.names, self.parameters, self._trained, strict=True):
            if parameter is not trained:
                trained.copy_(state["masters"][name])
        self._write_parameters()
        self.steps, self.skipped = state["steps"], state["skipped"]

    def close(self) -> None:
        """Takes the gradient hooks off the parameters."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

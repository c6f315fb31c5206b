"""How wrong the critic is: the clipped value loss of PPO2, and how much of the returns it explains."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_value_loss(
    values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, epsilon: float | None
) -> Tensor:
    """max((V - R)^2, (clip(V, V_old - epsilon, V_old + epsilon) - R)^2) / 2, one per policy token.

    The larger of the two, so that a value which moved further than epsilon *towards* its return stops
    having a gradient, and one that moved away keeps it (OpenAI baselines' PPO2; not in arXiv:1707.06347).

    Args:
        values_N: the critic's now; differentiable.
        old_values_N: the critic's before the update, which credit was given with.
        returns_N: from `rft.learn.gae.gae`.
        epsilon: in units of the reward; None does not clip.
    """
    loss_N = (values_N - returns_N).square()
    if epsilon is not None:
        clipped_N = torch.clamp(values_N, old_values_N - epsilon, old_values_N + epsilon)
        loss_N = torch.max(loss_N, (clipped_N - returns_N).square())
    return loss_N / 2.0


def value_clip_frac(values_N: Tensor, old_values_N: Tensor, returns_N: Tensor, epsilon: float) -> float:
    """Share of tokens whose value has no gradient because it moved too far; NaN for no tokens."""
    clipped_N = torch.clamp(values_N, old_values_N - epsilon, old_values_N + epsilon)
    return ((clipped_N - returns_N).square() > (values_N - returns_N).square()).float().mean().item()


def explained_variance(values_N: Tensor, returns_N: Tensor) -> float:
    """1 - var(R - V) / var(R): 1 foresees every return, 0 is no better than their mean, below 0 worse.

    NaN where the returns do not vary: there is nothing to explain.
    """
    variance = returns_N.double().var(correction=0)
    left = (returns_N.double() - values_N.double()).var(correction=0)
    return (1.0 - left / variance).item() if variance > 0 else float("nan")

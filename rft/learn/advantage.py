"""Advantages within a batch: how much better each reward is than was to be expected of its prompt.

    group    (r_i - mean(r of its group)) / (s + 1e-4)                     GRPO
    rloo     r_i - mean(r of the others of its group)                      arXiv:2402.14740, equation 8
    max_rl   (r_i - mean) / mean, of its group; 0 in a group of zeros      MaxRL, arXiv:2602.02710
    gdpo     whitened sum_k w_k group(r_ik) over the parts k of a score    GDPO, arXiv:2601.05242

`group` divides by the standard deviation s that `scale` names:

    group    of the group            DeepSeekMath, arXiv:2402.03300, section 4.1.2
    batch    of all groups' rewards  Lite PPO, arXiv:2508.08221
    none     one                     Dr. GRPO, arXiv:2503.20783: the group's s favours prompts that are
                                     nearly always or nearly never solved

Dividing by the group's mean instead makes the expected step that of log(pass rate) and not of the pass
rate: rarely solved prompts count more. It is at most G - 1 for rewards that are not negative, so nothing is
added to the divisor.

Standard deviations are unbiased (divided by n - 1), and 1e-4 is added, as in TRL. Means are
taken in float64, where that of equal float32 rewards is exact: a group without variance gets zeros, and not
the rounding of its mean divided by 1e-4.

Axes: S sequences, in any order; `group_S` says which group each belongs to, from 0. Masked members must not
be here. Where turns have credit of their own, a turn of a group stands for a group.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-4

Scale = Literal["group", "batch", "none"]


def group_advantages(
    rewards_S: Tensor, group_S: Tensor, scale: Scale, batch_S: Tensor | None = None
) -> Tensor:
    """`group`: relative to the group's mean, divided by the standard deviation that `scale` names.

    Args:
        batch_S: all rewards of the batch, for scale "batch"; unset, `rewards_S`.
    """
    rewards_S = rewards_S.double()
    centred_S = rewards_S - _means(rewards_S, group_S)[group_S]
    if scale == "group":
        square_P, size_P = _sums(centred_S.square(), group_S), _sizes(group_S)
        deviation_P = (square_P / (size_P - 1).clamp(min=1)).sqrt()
        centred_S = centred_S / (deviation_P[group_S] + EPSILON)
    elif scale == "batch":
        centred_S = centred_S / (_deviation(rewards_S if batch_S is None else batch_S) + EPSILON)
    return centred_S.float()


def leave_one_out(rewards_S: Tensor, group_S: Tensor) -> Tensor:
    """`rloo`: r_i minus the mean of the group's other members; 0 for a member that has no others.

    Its baseline does not depend on the answer it is compared with, so the gradient is unbiased. It is
    n / (n - 1) times the reward centred by the mean of all n.
    """
    rewards_S = rewards_S.double()
    centred_S = rewards_S - _means(rewards_S, group_S)[group_S]
    size_P = _sizes(group_S)
    return (centred_S * (size_P / (size_P - 1).clamp(min=1))[group_S]).float()


def max_rl(rewards_S: Tensor, group_S: Tensor) -> Tensor:
    """`max_rl`: the centred reward divided by the group's mean reward.

    Raises ValueError for a negative reward, which has no likelihood to stand for.
    """
    if (rewards_S < 0).any():
        raise ValueError(f"max_rl needs rewards that are never negative, got {rewards_S.min().item():.6g}")
    rewards_S = rewards_S.double()
    mean_S = _means(rewards_S, group_S)[group_S]
    return torch.where(mean_S > 0, (rewards_S - mean_S) / mean_S, 0.0).float()


def gdpo(parts_SK: Tensor, weights_K: Tensor, rewards_S: Tensor, group_S: Tensor) -> Tensor:
    """`gdpo`: every part normalised within its group, so that no part decides by its scale alone.

    Args:
        parts_SK: what each score is made of; NaN where a part has no number.
        weights_K: what each normalised part counts; negative punishes, 0 leaves it out.
        rewards_S: the scores, which stand in where a group has no part.

    A part that one member of a group lacks is left out for the whole group, as composed evaluators do:
    an answer must not win because a part of it could not be judged. The weighted sum has mean 0 in every
    group; divided by its deviation over the batch's sequences (plus 1e-4) it has deviation 1.
    """
    lacking_PK = _sums(parts_SK.isnan().double(), group_S)
    counts_SK = (lacking_PK[group_S] == 0) & (weights_K != 0)
    total_S = torch.zeros(rewards_S.shape, dtype=torch.float64)
    for k in range(parts_SK.shape[1]):
        part_S = group_advantages(parts_SK[:, k].nan_to_num(), group_S, "group")
        total_S += weights_K[k] * part_S.where(counts_SK[:, k], torch.zeros(()))
    alone_S = ~counts_SK.any(dim=1)
    total_S += group_advantages(rewards_S, group_S, "group").where(alone_S, torch.zeros(()))
    return (total_S / (_deviation(total_S) + EPSILON)).float()


def _means(rewards_S: Tensor, group_S: Tensor) -> Tensor:
    """The mean reward of each group, [P]; 0 for a group without members."""
    return _sums(rewards_S, group_S) / _sizes(group_S).clamp(min=1)


def _deviation(values: Tensor) -> Tensor:
    """The unbiased standard deviation of all values; 0 for fewer than two."""
    return values.std() if values.numel() > 1 else values.new_zeros(())


def _sums(values_S: Tensor, group_S: Tensor) -> Tensor:
    groups = int(group_S.max()) + 1 if group_S.numel() else 0
    return values_S.new_zeros(groups, *values_S.shape[1:]).index_add(0, group_S, values_S)


def _sizes(group_S: Tensor) -> Tensor:
    return torch.bincount(group_S).double()

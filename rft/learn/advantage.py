"""Credit: rewards become advantages, relative to the other answers to the same prompt.

    A_i = (r_i - mean(r of its group)) / (std + 1e-4)

    scale "group"  std over the group              DeepSeekMath, arXiv:2402.03300, section 4.1.2
    scale "batch"  std over all groups' rewards    Lite PPO, arXiv:2508.08221
    scale "none"   divide by one                   Dr. GRPO, arXiv:2503.20783: the group's std favours
                                                   prompts that are nearly always or nearly never solved

Standard deviations are unbiased (divided by n - 1), and 1e-4 is added, as in TRL. Means are
taken in float64, where that of equal float32 rewards is exact: a group without variance gets zeros, and not
the rounding of its mean divided by 1e-4.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-4

Scale = Literal["group", "batch", "none"]


def group_advantages(rewards_S: Tensor, group_S: Tensor, scale: Scale) -> Tensor:
    """Group-relative advantages, one per sequence.

    Args:
        rewards_S: rewards of valid members only; masked members must not be here.
        group_S: which group each belongs to, from 0.
        scale: whose standard deviation divides; see the module's docstring.
    """
    if rewards_S.numel() == 0:
        return rewards_S.clone()
    rewards_S = rewards_S.double()
    groups = int(group_S.max()) + 1
    zeros_P = rewards_S.new_zeros(groups)
    size_P = zeros_P.index_add(0, group_S, torch.ones_like(rewards_S))
    mean_P = zeros_P.index_add(0, group_S, rewards_S) / size_P.clamp(min=1)
    centred_S = rewards_S - mean_P[group_S]
    if scale == "group":
        variance_P = zeros_P.index_add(0, group_S, centred_S.square()) / (size_P - 1).clamp(min=1)
        centred_S = centred_S / (variance_P.sqrt()[group_S] + EPSILON)
    elif scale == "batch":
        centred_S = centred_S / (rewards_S.std() + EPSILON) if rewards_S.numel() > 1 else centred_S
    return centred_S.float()

"""Corrections for samples that the trained policy would not quite have drawn.

An inference engine does not compute exactly the trainer's probabilities, so even fresh rollouts are a little
off policy (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"). The
importance ratio old / sampler says by how much:

    level      token      each token's own ratio
               sequence   the product over its completion
               geometric  the geometric mean over its completion: its spread does not grow with length
    mode       truncate   the weight is the ratio, at most `clip_max`         (TIS, Yao et al. 2025)
               mask       the ratio, or 0 above `clip_max`                    (MIS, Liu et al. 2025)
               icepop     the ratio, or 0 outside `clip_min` to `clip_max`    (IcePop, arXiv:2510.18855)
               off        1

Apart from the weights, completions with a negative advantage whose mean log(sampler / policy) is above a
threshold are left out: learning from one's own mistakes helps only while they are one's own
(DeepSeek-V3.2, arXiv:2512.02556, equation 9).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rft.learn.segments import sequence_means, sequence_sums
from rft.recipe.schema import MismatchSpec


def importance_ratios(
    old_logprobs_N: Tensor, sampler_logprobs_N: Tensor, sequence_N: Tensor, level: str
) -> Tensor:
    """old / sampler probability for each token at a level: "token", "sequence" or "geometric".

    A token whose sampler log-probability is unknown (NaN) counts as a ratio of one.
    """
    difference_N = torch.nan_to_num(old_logprobs_N.detach() - sampler_logprobs_N, nan=0.0)
    if level == "sequence":
        difference_N = sequence_sums(difference_N, sequence_N)
    elif level == "geometric":
        difference_N = sequence_means(difference_N, sequence_N)
    return difference_N.exp()


def correction_weights(ratio_N: Tensor, spec: MismatchSpec) -> Tensor:
    """What each token's loss is multiplied with, given its ratio. A ratio at a bound is inside."""
    if spec.mode == "off":
        return torch.ones_like(ratio_N)
    if spec.mode == "truncate":
        return ratio_N.clamp(max=spec.clip_max)
    outside_N = ratio_N > spec.clip_max
    if spec.mode == "icepop":
        outside_N |= ratio_N < spec.clip_min
    return ratio_N.masked_fill(outside_N, 0.0)


def mismatch_weights(
    old_logprobs_N: Tensor, sampler_logprobs_N: Tensor, sequence_N: Tensor, spec: MismatchSpec
) -> Tensor:
    """`correction_weights` of `importance_ratios` at the spec's level."""
    ratio_N = importance_ratios(old_logprobs_N, sampler_logprobs_N, sequence_N, spec.level)
    return correction_weights(ratio_N, spec)


def off_policy_kept(
    policy_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    sequence_N: Tensor,
    threshold: float,
) -> Tensor:
    """bool, True: the token stays, having no negative advantage or a completion that is near enough.

    The mean of log(sampler / policy) is over all of a completion's tokens; one that the sampler did not score
    adds nothing to the sum.
    """
    distance_N = torch.nan_to_num(sampler_logprobs_N - policy_logprobs_N.detach(), nan=0.0)
    return (advantages_N >= 0) | (sequence_means(distance_N, sequence_N) <= threshold)

"""What one update tells about itself: averages over policy tokens, log-probabilities in nats."""

from __future__ import annotations

import torch
from torch import Tensor

from rft.learn.loss import LossConfig, importance_ratios, kl_k3, mismatch_weights


def ratio_metrics(
    policy_logprobs_N: Tensor, old_logprobs_N: Tensor, advantages_N: Tensor, config: LossConfig
) -> dict[str, float]:
    """How far the policy moved within the update, and how often the clip took the gradient away."""
    ratio_N = (policy_logprobs_N - old_logprobs_N).exp()
    low_N = (ratio_N < 1.0 - config.epsilon_low) & (advantages_N < 0)
    high_N = (ratio_N > 1.0 + config.epsilon_high) & (advantages_N > 0)
    return {
        "ratio_mean": ratio_N.mean().item(),
        "ratio_max": ratio_N.max().item(),
        "clip_low": low_N.float().mean().item(),
        "clip_high": high_N.float().mean().item(),
    }


def sampler_metrics(
    old_logprobs_N: Tensor, sampler_logprobs_N: Tensor, sequence_N: Tensor, config: LossConfig
) -> dict[str, float]:
    """How far the sampler is from the policy it was meant to be.

    `ess` is the effective sample size of the importance ratios as a share, (sum w)^2 / (n sum w^2), over
    tokens or sequences as the correction's level says: 1 on policy, towards 0 when few samples carry all.
    `sampler_kl_k1` and `_k3` estimate KL(sampler || policy) (Schulman 2020); k1 may be negative.
    """
    known_N = ~sampler_logprobs_N.isnan()
    difference_N = (old_logprobs_N - sampler_logprobs_N)[known_N]
    if difference_N.numel() == 0:
        return {}
    ratio_N = importance_ratios(old_logprobs_N, sampler_logprobs_N, sequence_N, config.mismatch_level)
    factor_N = mismatch_weights(ratio_N, mode=config.mismatch_mode, clip_max=config.mismatch_clip_max)
    sample_ratio = ratio_N
    if config.mismatch_level == "sequence":
        first_N = torch.ones_like(sequence_N, dtype=torch.bool)
        first_N[1:] = sequence_N[1:] != sequence_N[:-1]
        sample_ratio = ratio_N[first_N]
    return {
        "sampler_kl_k1": -difference_N.mean().item(),
        "sampler_kl_k3": kl_k3(sampler_logprobs_N[known_N], old_logprobs_N[known_N]).mean().item(),
        "sampler_delta_mean": difference_N.abs().mean().item(),
        "sampler_delta_max": difference_N.abs().max().item(),
        "ess": (sample_ratio.sum().square() / (sample_ratio.numel() * sample_ratio.square().sum())).item(),
        "mismatch_weight_mean": factor_N.mean().item(),
        "mismatch_clipped": (factor_N != ratio_N).float().mean().item()
        if config.mismatch_mode != "off"
        else 0.0,
    }

"""What one update tells about itself: averages over policy tokens, log-probabilities in nats."""

from __future__ import annotations

from torch import Tensor

from rft.learn.kl import kl_estimate
from rft.learn.loss import LossConfig
from rft.learn.mismatch import correction_weights, importance_ratios
from rft.learn.segments import first_of_each
from rft.recipe.schema import MismatchSpec


def ratio_metrics(ratio_N: Tensor, advantages_N: Tensor, config: LossConfig) -> dict[str, float]:
    """How far the policy moved within the update, and how many tokens stood beyond the clip's bounds.

    Args:
        ratio_N: policy / old at the loss's importance level. Bounds are those of the clipped surrogate; a
            loss type that weighs softly has no gradient taken away there.
    """
    low_N = (ratio_N < config.ratio_min) & (advantages_N < 0)
    high_N = (ratio_N > config.ratio_max) & (advantages_N > 0)
    return {
        "ratio_mean": ratio_N.mean().item(),
        "ratio_max": ratio_N.max().item(),
        "clip_low": low_N.float().mean().item(),
        "clip_high": high_N.float().mean().item(),
    }


def sampler_metrics(
    old_logprobs_N: Tensor, sampler_logprobs_N: Tensor, sequence_N: Tensor, mismatch: MismatchSpec
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
    ratio_N = importance_ratios(old_logprobs_N, sampler_logprobs_N, sequence_N, mismatch.level)
    factor_N = correction_weights(ratio_N, mismatch)
    sample_ratio = ratio_N if mismatch.level == "token" else ratio_N[first_of_each(sequence_N)]
    return {
        "sampler_kl_k1": -difference_N.mean().item(),
        "sampler_kl_k3": kl_estimate(sampler_logprobs_N[known_N], old_logprobs_N[known_N], "k3")
        .mean()
        .item(),
        "sampler_delta_mean": difference_N.abs().mean().item(),
        "sampler_delta_max": difference_N.abs().max().item(),
        "ess": (sample_ratio.sum().square() / (sample_ratio.numel() * sample_ratio.square().sum())).item(),
        "mismatch_weight_mean": factor_N.mean().item(),
        "mismatch_clipped": (factor_N != ratio_N).float().mean().item() if mismatch.mode != "off" else 0.0,
    }

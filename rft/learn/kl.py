"""Estimates of KL(policy || reference) from the one token that was sampled (Schulman 2020).

With d = log policy - log reference of that token:

    k1   d                    unbiased, may be negative, noisy
    k2   d^2 / 2              biased, never negative
    k3   exp(-d) - 1 + d      unbiased, never negative; GRPO, arXiv:2402.03300, equation 4

An unbiased value need not have an unbiased gradient. As a term of the loss, on policy, k1 has a gradient of
zero on average, k2 the right one, and k3 that of another divergence (arXiv:2506.09477). `corrected` weighs
the estimate by the importance ratio policy / old, so that its gradient is that of the divergence wherever
the samples come from; with k3 this is DeepSeek-V3.2's (arXiv:2512.02556). The ratio beside k2 is held
constant, because k2's gradient is right as it stands and only the samples' distribution is not.
"""

from __future__ import annotations

from torch import Tensor

from rft.recipe.schema import KLSpec


def kl_estimate(policy_logprobs_N: Tensor, ref_logprobs_N: Tensor, estimator: str) -> Tensor:
    """The estimate for each token, nats; differentiable in both.

    Args:
        estimator: "k1", "k2" or "k3"; see the module's docstring.
    """
    difference_N = policy_logprobs_N - ref_logprobs_N
    if estimator == "k1":
        return difference_N
    if estimator == "k2":
        return difference_N.square() / 2.0
    return (-difference_N).exp() - 1.0 + difference_N


def loss_kl(policy_logprobs_N: Tensor, ref_logprobs_N: Tensor, log_ratio_N: Tensor, kl: KLSpec) -> Tensor:
    """The divergence as a term of the loss, one per token.

    Args:
        log_ratio_N: log(policy / old) at the loss's importance level, for `kl.corrected`.
    """
    estimate_N = kl_estimate(policy_logprobs_N, ref_logprobs_N, kl.estimator)
    if not kl.corrected:
        return estimate_N
    ratio_N = log_ratio_N.exp()
    return estimate_N * (ratio_N.detach() if kl.estimator == "k2" else ratio_N)

"""What one update tells about itself: averages over policy tokens, log-probabilities in nats."""

from __future__ import annotations

import torch
from torch import Tensor

from rft.learn.batch import Batch
from rft.learn.kl import kl_estimate
from rft.learn.loss import LossConfig, LossInputs, log_ratios
from rft.learn.mismatch import correction_weights, importance_ratios, off_policy_kept
from rft.learn.segments import first_of_each
from rft.learn.value_loss import clipped_value_loss, explained_variance, value_clip_frac
from rft.recipe.schema import MismatchSpec


def ratio_metrics(ratio_N: Tensor, advantages_N: Tensor, config: LossConfig) -> dict[str, float]:
    """How far the policy moved within the update, and how many tokens stood beyond the clip's bounds.

    Args:
        ratio_N: policy / old at the loss's importance level.
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


def critic_metrics(
    values_K: Tensor, old_values_K: Tensor, returns_K: Tensor, epsilon: float | None
) -> dict[str, float]:
    """How wrong the critic was. K: policy tokens, once for each pass.

    `explained_variance` is that of the values credit was given with, before the update.
    """
    loss_K = clipped_value_loss(values_K, old_values_K, returns_K, epsilon)
    clipped = 0.0 if epsilon is None else value_clip_frac(values_K, old_values_K, returns_K, epsilon)
    return {
        "value_loss": loss_K.mean().item(),
        "value_clip": clipped,
        "value_mean": old_values_K.mean().item(),
        "returns_mean": returns_K.mean().item(),
        "explained_variance": explained_variance(old_values_K, returns_K),
    }


class Seen:
    """What all passes of an update gave, token by token: a few floats each, kept for the metrics."""

    def __init__(self) -> None:
        self._index: list[Tensor] = []
        self._policy: list[Tensor] = []
        self._old: list[Tensor] = []
        self._ratio: list[Tensor] = []
        self._entropy: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._values: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def add(self, index_M: Tensor, inputs: LossInputs, config: LossConfig) -> None:
        """Of the policy."""
        self._index.append(index_M)
        self._policy.append(inputs.policy_logprobs_N.detach().cpu())
        self._old.append(inputs.old_logprobs_N.cpu())
        self._ratio.append(log_ratios(inputs, config.importance_level).exp().cpu())
        self._entropy.append(inputs.entropy_N.detach().cpu())
        threshold = config.mismatch.off_policy_threshold
        if threshold is not None:
            policy_M, _, sampler_M, advantages_M, sequence_M, *_ = inputs
            self._kept.append(off_policy_kept(policy_M, sampler_M, advantages_M, sequence_M, threshold).cpu())

    def add_values(self, index_M: Tensor, values_M: Tensor) -> None:
        """Of the critic."""
        self._values.append((index_M, values_M.detach().cpu()))

    def metrics(self, batch: Batch, config: LossConfig, value_epsilon: float | None) -> dict[str, float]:
        """Of what was seen; of the policy nothing where it was not run."""
        out = self._policy_metrics(batch, config) if self._index else {}
        if self._values:
            index_K, values_K = (torch.cat(tensors) for tensors in zip(*self._values, strict=True))
            assert batch.values_N is not None and batch.returns_N is not None
            out |= critic_metrics(values_K, batch.values_N[index_K], batch.returns_N[index_K], value_epsilon)
        return out

    def _policy_metrics(self, batch: Batch, config: LossConfig) -> dict[str, float]:
        index_K, policy_K = torch.cat(self._index), torch.cat(self._policy)
        old_N = torch.full((batch.num_tokens,), float("nan"))
        old_N[index_K] = torch.cat(self._old)
        trained_N = batch.trains_S[batch.sequence_N]
        out = ratio_metrics(torch.cat(self._ratio), batch.advantages_N[index_K], config)
        out |= sampler_metrics(
            old_N[trained_N],
            batch.sampler_logprobs_N[trained_N],
            batch.sequence_N[trained_N],
            config.mismatch,
        )
        out["entropy"] = torch.cat(self._entropy).mean().item()
        if self._kept:
            out["off_policy_dropped"] = 1.0 - torch.cat(self._kept).float().mean().item()
        if batch.ref_logprobs_N is not None:
            out["ref_kl"] = kl_estimate(policy_K, batch.ref_logprobs_N[index_K], "k3").mean().item()
        return out

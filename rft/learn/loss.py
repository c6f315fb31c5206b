"""The policy loss, as pure functions over policy tokens.

    loss = sum_n  weight_n * (mismatch_n * clipped_n + beta * kl_n)

- `clipped_n`: the clipped surrogate of PPO (arXiv:1707.06347, equation 7) with separate bounds, as in
  DAPO (arXiv:2503.14476, section 3.1), at token level.
- `mismatch_n`: importance weight of the policy over the sampler, because an inference engine does not
  compute exactly the trainer's probabilities (truncated importance sampling: Yao et al. 2025, "Your
  efficient RL framework secretly brings you off-policy RL training"). It scales the policy loss only.
- `kl_n`: the k3 estimator of KL(policy || reference) (Schulman 2020; GRPO, arXiv:2402.03300, equation 4).
- `weight_n`: one over the loss type's normaliser. It is computed over the whole optimizer batch, so that
  the gradient does not depend on how the batch is cut into micro-batches.

Axes: N policy tokens of any number of sequences; `sequence_N` says whose, from 0. Sequences are whole:
all tokens of a sequence are in the same call. Definitions are those of TRL 1.16, which the tests hold
as the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossType = Literal["grpo", "dr_grpo", "dapo", "bnpo"]
MismatchMode = Literal["off", "truncate", "mask"]
MismatchLevel = Literal["token", "sequence"]


@dataclass(frozen=True)
class LossConfig:
    """What the loss needs to know."""

    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    beta: float = 0.0
    mismatch_mode: MismatchMode = "mask"
    mismatch_level: MismatchLevel = "sequence"
    mismatch_clip_max: float = 3.0


def token_weights(
    loss_type: LossType,
    sequence_N: Tensor,
    *,
    batch_sequences: float,
    batch_tokens: float,
    max_completion_tokens: int,
) -> Tensor:
    """One over the normaliser for each policy token of one optimizer step.

        grpo     1 / (S |o_s|)   mean over a sequence, then over sequences    arXiv:2402.03300, equation 3
        dr_grpo  1 / (S L_max)   no length bias: a constant per sequence      arXiv:2503.20783, section 3.2
        dapo     1 / N_batch     every token of the batch counts the same     arXiv:2503.14476, equation 8
        bnpo     1 / N           the step's own tokens; `dapo` when a batch makes one step

    Args:
        sequence_N: whose token, for all tokens of the step, constant groups included.
        batch_sequences: S, sequences per optimizer step.
        batch_tokens: policy tokens in the whole batch divided by its optimizer steps per pass.
        max_completion_tokens: L_max, sampled tokens that a rollout may have.
    """
    ones_N = torch.ones(sequence_N.shape, dtype=torch.float32)
    if loss_type == "grpo":
        length_S = torch.bincount(sequence_N)
        return ones_N / (batch_sequences * length_S[sequence_N])
    if loss_type == "dr_grpo":
        return ones_N / (batch_sequences * max_completion_tokens)
    return ones_N / (batch_tokens if loss_type == "dapo" else sequence_N.numel())


def clipped_policy_loss(
    policy_logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    *,
    epsilon_low: float,
    epsilon_high: float,
) -> Tensor:
    """-min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A) for r = policy / old, one per token."""
    ratio_N = (policy_logprobs_N - old_logprobs_N).exp()
    clipped_N = ratio_N.clamp(1.0 - epsilon_low, 1.0 + epsilon_high)
    return -torch.min(ratio_N * advantages_N, clipped_N * advantages_N)


def kl_k3(policy_logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """exp(d) - d - 1 for d = ref - policy: an unbiased estimate of KL(policy || ref), never negative."""
    difference_N = ref_logprobs_N - policy_logprobs_N
    return difference_N.exp() - difference_N - 1.0


def importance_ratios(
    old_logprobs_N: Tensor, sampler_logprobs_N: Tensor, sequence_N: Tensor, level: MismatchLevel
) -> Tensor:
    """old / sampler probability for each token: its own, or the product over its sequence.

    A token whose sampler log-probability is unknown (NaN) counts as a ratio of one.
    """
    difference_N = torch.nan_to_num(old_logprobs_N.detach() - sampler_logprobs_N, nan=0.0)
    if level == "sequence":
        total_S = difference_N.new_zeros(int(sequence_N.max()) + 1).index_add(0, sequence_N, difference_N)
        difference_N = total_S[sequence_N]
    return difference_N.exp()


def mismatch_weights(ratio_N: Tensor, *, mode: MismatchMode, clip_max: float) -> Tensor:
    """The factor on each token's policy loss: `truncate` caps ratios, `mask` drops those above the cap."""
    if mode == "off":
        return torch.ones_like(ratio_N)
    if mode == "truncate":
        return ratio_N.clamp(max=clip_max)
    return ratio_N.masked_fill(ratio_N > clip_max, 0.0)


def policy_loss(
    policy_logprobs_N: Tensor,
    *,
    old_logprobs_N: Tensor,
    sampler_logprobs_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    sequence_N: Tensor,
    ref_logprobs_N: Tensor | None,
    config: LossConfig,
) -> Tensor:
    """The loss of some whole sequences; summed over an optimizer step's calls it is the step's loss.

    Args:
        policy_logprobs_N: differentiable; everything else is constant.
        old_logprobs_N: the policy at the start of the update, before its first optimizer step.
        weights_N: from `token_weights` over the whole step.
        ref_logprobs_N: needed exactly when `config.beta` is not 0.
    """
    loss_N = clipped_policy_loss(
        policy_logprobs_N,
        old_logprobs_N,
        advantages_N,
        epsilon_low=config.epsilon_low,
        epsilon_high=config.epsilon_high,
    )
    ratio_N = importance_ratios(old_logprobs_N, sampler_logprobs_N, sequence_N, config.mismatch_level)
    loss_N = loss_N * mismatch_weights(ratio_N, mode=config.mismatch_mode, clip_max=config.mismatch_clip_max)
    if config.beta != 0.0:
        if ref_logprobs_N is None:
            raise ValueError("beta is not 0, so the loss needs the reference model's log-probabilities")
        loss_N = loss_N + config.beta * kl_k3(policy_logprobs_N, ref_logprobs_N)
    return (weights_N * loss_N).sum()

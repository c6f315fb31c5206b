"""What a loss type divides by, as one weight for each policy token of one optimizer step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Normaliser = Literal["grpo", "dr_grpo", "dapo", "bnpo", "luspo"]


def token_weights(
    normaliser: Normaliser,
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
        luspo    1 / S           a sequence counts by its length              arXiv:2602.05261

    Args:
        sequence_N: whose token, for all tokens of the step, constant groups included.
        batch_sequences: S, sequences per optimizer step.
        batch_tokens: policy tokens in the whole batch divided by its optimizer steps per pass.
        max_completion_tokens: L_max, sampled tokens that a rollout may have.
    """
    ones_N = torch.ones(sequence_N.shape, dtype=torch.float32)
    if normaliser == "grpo":
        length_S = torch.bincount(sequence_N)
        return ones_N / (batch_sequences * length_S[sequence_N])
    if normaliser == "dr_grpo":
        return ones_N / (batch_sequences * max_completion_tokens)
    if normaliser == "luspo":
        return ones_N / batch_sequences
    return ones_N / (batch_tokens if normaliser == "dapo" else sequence_N.numel())

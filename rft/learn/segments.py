"""Sums and means over each sequence's tokens, given back to every token."""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_sums(values_N: Tensor, sequence_N: Tensor) -> Tensor:
    """For each token the sum of `values_N` over its sequence. Sequence numbers may have gaps."""
    if values_N.numel() == 0:
        return values_N
    zeros_S = values_N.new_zeros(int(sequence_N.max()) + 1)
    return zeros_S.index_add(0, sequence_N, values_N)[sequence_N]


def sequence_means(values_N: Tensor, sequence_N: Tensor) -> Tensor:
    """For each token the mean of `values_N` over its sequence's tokens."""
    return sequence_sums(values_N, sequence_N) / sequence_sums(torch.ones_like(values_N), sequence_N)


def first_of_each(sequence_N: Tensor) -> Tensor:
    """bool, True: the first token of its sequence. A sequence's tokens stand together."""
    first_N = torch.ones_like(sequence_N, dtype=torch.bool)
    first_N[1:] = sequence_N[1:] != sequence_N[:-1]
    return first_N

"""Sums and means over each sequence's tokens."""

from __future__ import annotations

import torch

from rft.learn.segments import first_of_each, sequence_means, sequence_sums

VALUES = torch.tensor([1.0, 2.0, 4.0, 8.0])
SEQUENCES = torch.tensor([3, 3, 0, 5])  # in any order, with gaps


def test_every_token_gets_its_sequences_sum_and_mean():
    assert sequence_sums(VALUES, SEQUENCES).tolist() == [3.0, 3.0, 4.0, 8.0]
    assert sequence_means(VALUES, SEQUENCES).tolist() == [1.5, 1.5, 4.0, 8.0]
    assert first_of_each(SEQUENCES).tolist() == [True, False, True, True]


def test_nothing_has_no_sums_and_no_first_token():
    none_N, none = torch.empty(0), torch.empty(0, dtype=torch.long)
    assert sequence_sums(none_N, none).shape == sequence_means(none_N, none).shape == (0,)
    assert first_of_each(none).shape == (0,)

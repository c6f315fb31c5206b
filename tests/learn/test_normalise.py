"""Normalisers by hand, and what they promise."""

from __future__ import annotations

import pytest
import torch

from rft.learn.normalise import token_weights


@pytest.mark.parametrize(
    ("normaliser", "expected"),
    [
        ("grpo", [1 / 4, 1 / 4, 1 / 2]),
        ("dr_grpo", [1 / 40] * 3),
        ("dapo", [1 / 5] * 3),
        ("bnpo", [1 / 3] * 3),
        ("luspo", [1 / 2] * 3),
    ],
)
def test_normalisers_by_hand(normaliser, expected):
    # Two sequences of two and one tokens, of a batch that has five tokens per optimizer step.
    weights_N = token_weights(
        normaliser, torch.tensor([0, 0, 1]), batch_sequences=2, batch_tokens=5, max_completion_tokens=20
    )
    assert weights_N.tolist() == pytest.approx(expected)

"""The critic's loss, by hand and case by case."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rft.learn.value_loss import clipped_value_loss, explained_variance, value_clip_frac

NUMBER = st.floats(-3, 3, width=32)


def test_three_tokens_by_hand():
    # Old values 0, epsilon 0.2, returns 1, 1 and -1; values now 0.5, 0.1 and 0.5.
    # 1: clipped to 0.2, further from 1: 0.8^2 / 2 = 0.32, no gradient (0.5 moved far enough).
    # 2: within the clip: 0.9^2 / 2 = 0.405, gradient 0.1 - 1 = -0.9.
    # 3: moved away from -1: 1.5^2 / 2 = 1.125 is the larger, gradient 0.5 + 1 = 1.5.
    values_N = torch.tensor([0.5, 0.1, 0.5], requires_grad=True)
    old_N, returns_N = torch.zeros(3), torch.tensor([1.0, 1.0, -1.0])
    loss_N = clipped_value_loss(values_N, old_N, returns_N, 0.2)
    assert loss_N.tolist() == pytest.approx([0.32, 0.405, 1.125])
    loss_N.sum().backward()
    assert values_N.grad.tolist() == pytest.approx([0.0, -0.9, 1.5])
    now_N = values_N.detach()
    assert value_clip_frac(now_N, old_N, returns_N, 0.2) == pytest.approx(1 / 3)
    assert value_clip_frac(now_N[1:], old_N[1:], returns_N[1:], 0.2) == 0.0


@given(NUMBER, NUMBER, NUMBER, st.floats(0.01, 1.0))
def test_token_by_token_it_is_the_worse_of_two_squares(value, old, target, epsilon):
    moved = min(max(value, old - epsilon), old + epsilon)
    expected = max((value - target) ** 2, (moved - target) ** 2) / 2
    one = [torch.tensor([number]) for number in (value, old, target)]
    assert clipped_value_loss(*one, epsilon).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert clipped_value_loss(*one, None).item() == pytest.approx(
        (value - target) ** 2 / 2, rel=1e-4, abs=1e-5
    )


def test_explained_variance_says_how_much_better_than_the_mean():
    returns_N = torch.tensor([0.0, 1.0, 2.0])
    assert explained_variance(returns_N + 5.0, returns_N) == pytest.approx(1.0), (
        "a constant error explains all"
    )
    assert explained_variance(torch.ones(3), returns_N) == pytest.approx(0.0)
    assert explained_variance(-returns_N, returns_N) == pytest.approx(1.0 - 4.0)
    assert math.isnan(explained_variance(returns_N, torch.ones(3)))

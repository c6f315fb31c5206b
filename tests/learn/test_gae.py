"""GAE and whitening, against arithmetic done by hand and the definitions written out as sums."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rft.learn.gae import gae, rewards_to_go, whiten

RATES = st.floats(0.0, 1.0)


@st.composite
def trajectories(draw):
    """(rewards_N, values_N, sequence_N) of up to four sequences."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    number = st.floats(-2, 2, width=32)
    rewards, values = (
        torch.tensor(
            draw(st.lists(number, min_size=sum(lengths), max_size=sum(lengths))), dtype=torch.float64
        )
        for _ in range(2)
    )
    return rewards, values, torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def summed_up(rewards_N, values_N, sequence_N, gamma, lam):
    """Equation 16 of arXiv:1506.02438 as it stands: a sum of discounted differences for each token."""
    out = []
    for n, own in enumerate(sequence_N.tolist()):
        total = 0.0
        later = [k for k, other in enumerate(sequence_N.tolist()) if other == own and k >= n]
        for steps, k in enumerate(later):
            after = values_N[k + 1].item() if k + 1 in later else 0.0
            delta = rewards_N[k].item() + gamma * after - values_N[k].item()
            total += (gamma * lam) ** steps * delta
        out.append(total)
    return torch.tensor(out)


def test_three_tokens_by_hand():
    # Values 0.5, 0.25, 1; the score 2 at the last; gamma 1/2, lambda 1/2.
    # delta: 0 + 0.125 - 0.5 = -0.375; 0 + 0.5 - 0.25 = 0.25; 2 + 0 - 1 = 1
    # A: 1; 0.25 + 0.25 * 1 = 0.5; -0.375 + 0.25 * 0.5 = -0.25
    advantages_N, returns_N = gae(
        torch.tensor([0.0, 0.0, 2.0]),
        torch.tensor([0.5, 0.25, 1.0]),
        torch.tensor([0, 0, 0]),
        gamma=0.5,
        lam=0.5,
    )
    assert advantages_N.tolist() == [-0.25, 0.5, 1.0]
    assert returns_N.tolist() == [0.25, 0.75, 2.0]


@given(trajectories(), RATES, RATES)
def test_it_is_the_sum_of_the_definition(made, gamma, lam):
    rewards_N, values_N, sequence_N = made
    advantages_N, returns_N = gae(rewards_N, values_N, sequence_N, gamma=gamma, lam=lam)
    expected_N = summed_up(rewards_N, values_N, sequence_N, gamma, lam)
    torch.testing.assert_close(advantages_N, expected_N, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(returns_N, (expected_N + values_N).float(), rtol=1e-5, atol=1e-5)


@given(trajectories(), RATES)
def test_a_lambda_of_one_makes_returns_discounted_sums_whatever_was_expected(made, gamma):
    rewards_N, values_N, sequence_N = made
    _, returns_N = gae(rewards_N, values_N, sequence_N, gamma=gamma, lam=1.0)
    _, unexpected_N = gae(rewards_N, torch.zeros_like(values_N), sequence_N, gamma=gamma, lam=1.0)
    torch.testing.assert_close(returns_N, unexpected_N, rtol=1e-5, atol=1e-5)


@given(trajectories(), RATES)
def test_a_lambda_of_zero_looks_one_token_ahead(made, gamma):
    rewards_N, values_N, sequence_N = made
    advantages_N, _ = gae(rewards_N, values_N, sequence_N, gamma=gamma, lam=0.0)
    after_N = torch.tensor(
        [
            values_N[n + 1].item() if n + 1 < len(values_N) and sequence_N[n + 1] == sequence_N[n] else 0.0
            for n in range(len(values_N))
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(advantages_N, (rewards_N + gamma * after_N - values_N).float())


@given(trajectories())
def test_sequences_do_not_see_each_other(made):
    rewards_N, values_N, sequence_N = made
    together_N, _ = gae(rewards_N, values_N, sequence_N, gamma=0.9, lam=0.8)
    apart = [
        gae(rewards_N[own], values_N[own], sequence_N[own], gamma=0.9, lam=0.8)[0]
        for own in (sequence_N == index for index in range(int(sequence_N.max()) + 1))
    ]
    assert torch.equal(together_N, torch.cat(apart))


def test_rewards_to_go_add_up_from_the_end():
    rewards_N, sequence_N = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 0, 0, 1])
    assert rewards_to_go(rewards_N, sequence_N).tolist() == [7.0, 6.0, 4.0, 8.0]


def test_whitening_three_values_by_hand():
    # 1, 2, 6: mean 3, unbiased variance (4 + 1 + 9) / 2 = 7.
    root = (7 + 1e-8) ** 0.5
    assert whiten(torch.tensor([1.0, 2.0, 6.0])).tolist() == pytest.approx([-2 / root, -1 / root, 3 / root])


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20))
def test_whitened_values_have_no_mean_left(values):
    white_N = whiten(torch.tensor(values) + 1000.0)
    assert white_N.mean().item() == pytest.approx(0.0, abs=1e-5)
    if max(values) - min(values) > 0.1:
        assert white_N.var().item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("values", [[], [3.0], [0.1, 0.1, 0.1]])
def test_what_does_not_vary_whitens_to_zero(values):
    assert whiten(torch.tensor(values)).tolist() == [0.0] * len(values)

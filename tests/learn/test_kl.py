"""Divergence estimates by hand, and their gradients against the exact divergence."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rft.learn.kl import kl_estimate, loss_kl
from rft.recipe.schema import KLSpec


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # policy 0.25, 0.5, 0.25 against reference 0.5, 0.5, 0.125: d = -log 2, 0, log 2.
        ("k1", [-math.log(2), 0.0, math.log(2)]),
        ("k2", [math.log(2) ** 2 / 2, 0.0, math.log(2) ** 2 / 2]),
        ("k3", [2 - 1 - math.log(2), 0.0, 0.5 - 1 + math.log(2)]),
    ],
)
def test_three_tokens_by_hand(estimator, expected):
    policy_N, ref_N = torch.tensor([0.25, 0.5, 0.25]).log(), torch.tensor([0.5, 0.5, 0.125]).log()
    assert kl_estimate(policy_N, ref_N, estimator).tolist() == pytest.approx(expected)


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=8))
def test_k2_and_k3_are_never_negative(pairs):
    policy_N, ref_N = torch.tensor(pairs, dtype=torch.float64).T
    for estimator in ("k2", "k3"):
        assert (kl_estimate(policy_N, ref_N, estimator) >= -1e-9).all()


def _expected_gradient(logits_V, old_V, ref_V, kl: KLSpec) -> torch.Tensor:
    """The gradient in the policy's logits, averaged over samples from `old`, with all of V enumerated."""
    logits_V = logits_V.clone().requires_grad_()
    policy_V = logits_V.log_softmax(-1)
    (old_V.exp() * loss_kl(policy_V, ref_V, policy_V - old_V, kl)).sum().backward()
    return logits_V.grad


def _exact_gradient(logits_V, ref_V) -> torch.Tensor:
    logits_V = logits_V.clone().requires_grad_()
    policy_V = logits_V.log_softmax(-1)
    (policy_V.exp() * (policy_V - ref_V)).sum().backward()
    return logits_V.grad


def _three_policies() -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(3)
    return [torch.randn(7, generator=chance, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_corrected_gradients_are_those_of_the_divergence_off_policy(estimator):
    policy, old, ref = _three_policies()
    old_V, ref_V = old.log_softmax(-1), ref.log_softmax(-1)
    ours_V = _expected_gradient(policy, old_V, ref_V, KLSpec(estimator=estimator, corrected=True))
    torch.testing.assert_close(ours_V, _exact_gradient(policy, ref_V))


def test_on_policy_gradients_without_correction_are_as_the_module_says():
    policy, _, ref = _three_policies()
    old_V, ref_V = policy.log_softmax(-1), ref.log_softmax(-1)
    exact_V = _exact_gradient(policy, ref_V)
    plain = {
        name: _expected_gradient(policy, old_V, ref_V, KLSpec(estimator=name)) for name in ("k1", "k2", "k3")
    }
    torch.testing.assert_close(plain["k1"], torch.zeros_like(exact_V))
    torch.testing.assert_close(plain["k2"], exact_V)
    assert (plain["k3"] - exact_V).abs().max() > 0.1 * exact_V.abs().max()

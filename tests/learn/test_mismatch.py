"""Corrections by hand: three tokens, of two sequences."""

from __future__ import annotations

import math

import pytest
import torch

from rft.learn.mismatch import correction_weights, importance_ratios, mismatch_weights, off_policy_kept
from rft.recipe.schema import MismatchSpec

SEQUENCES = torch.tensor([0, 0, 1])


# Sequence 0: ratios 2 and 8, product 16, geometric mean 4. Sequence 1: ratio 0.5.
def _old_and_sampler() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([0.2, 0.8, 0.1]).log(), torch.tensor([0.1, 0.1, 0.2]).log()


@pytest.mark.parametrize(
    ("level", "expected"), [("token", [2, 8, 0.5]), ("sequence", [16, 16, 0.5]), ("geometric", [4, 4, 0.5])]
)
def test_levels_by_hand(level, expected):
    assert importance_ratios(*_old_and_sampler(), SEQUENCES, level).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("off", [1, 1, 1]), ("truncate", [2, 3, 0.5]), ("mask", [2, 0, 0.5]), ("icepop", [2, 0, 0])],
)
def test_modes_by_hand(mode, expected):
    spec = MismatchSpec(mode=mode, level="token", clip_max=3.0, clip_min=0.6)
    assert mismatch_weights(*_old_and_sampler(), SEQUENCES, spec).tolist() == pytest.approx(expected)


def test_a_ratio_at_a_bound_is_inside():
    spec = MismatchSpec(mode="icepop", clip_max=3.0, clip_min=0.5)
    bounds_N = torch.tensor([0.5, 3.0])
    assert correction_weights(bounds_N, spec).tolist() == [0.5, 3.0]


def test_sequence_numbers_may_have_gaps():
    old_N, sampler_N = _old_and_sampler()
    far_N = torch.tensor([7, 7, 2])
    assert importance_ratios(old_N, sampler_N, far_N, "sequence").tolist() == pytest.approx([16, 16, 0.5])


@pytest.mark.parametrize(("level", "expected"), [("token", [1, 8, 0.5]), ("sequence", [8, 8, 0.5])])
def test_a_token_without_a_sampler_logprob_is_not_corrected(level, expected):
    old_N, sampler_N = _old_and_sampler()
    sampler_N[0] = math.nan
    assert importance_ratios(old_N, sampler_N, SEQUENCES, level).tolist() == pytest.approx(expected)


def test_no_gradient_flows_through_a_correction():
    old_N, sampler_N = _old_and_sampler()
    ratio_N = importance_ratios(old_N.requires_grad_(), sampler_N, SEQUENCES, "token")
    assert not ratio_N.requires_grad


@pytest.mark.parametrize(
    ("advantages", "threshold", "expected"),
    [
        # log(sampler / policy) is log 4 and 0 in sequence 0, mean 0.693; log 2 = 0.693 in sequence 1.
        ([-1.0, -1.0, -1.0], 0.70, [True, True, True]),
        ([-1.0, -1.0, -1.0], 0.69, [False, False, False]),
        ([1.0, 1.0, -1.0], 0.69, [True, True, False]),
        ([0.0, -1.0, 0.0], 0.69, [True, False, True]),
    ],
)
def test_bad_completions_far_off_policy_are_left_out_by_hand(advantages, threshold, expected):
    policy_N = torch.tensor([0.1, 0.3, 0.2]).log()
    sampler_N = torch.tensor([0.4, 0.3, 0.4]).log()
    kept_N = off_policy_kept(policy_N, sampler_N, torch.tensor(advantages), SEQUENCES, threshold)
    assert kept_N.tolist() == expected


def test_an_unknown_sampler_logprob_is_no_evidence_of_being_off_policy():
    policy_N = torch.tensor([0.1, 0.3, 0.2]).log()
    sampler_N = torch.tensor([0.4, math.nan, math.nan]).log()
    # log 4 over two tokens is 0.693; sequence 1 has nothing against it.
    for threshold, expected in ((0.70, [True, True, True]), (0.69, [False, False, True])):
        kept_N = off_policy_kept(policy_N, sampler_N, -torch.ones(3), SEQUENCES, threshold)
        assert kept_N.tolist() == expected


def test_a_completion_at_the_threshold_stays():
    policy_N, sampler_N = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-0.5, -0.5, 0.0])
    kept_N = off_policy_kept(policy_N, sampler_N, -torch.ones(3), SEQUENCES, 0.5)
    assert kept_N.tolist() == [True, True, False]

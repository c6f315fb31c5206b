"""What an update tells about itself, by hand: three tokens, of two sequences."""

from __future__ import annotations

import math

import pytest
import torch
from learn_cases import group, rollout

from rft.learn.batch import to_batch
from rft.learn.loss import LossConfig, LossInputs
from rft.learn.metrics import Seen, critic_metrics, ratio_metrics, sampler_metrics
from rft.learn.surrogates import clipped
from rft.recipe.schema import MismatchSpec

SEQUENCES = torch.tensor([0, 0, 1])


def test_a_ratio_counts_as_clipped_only_where_the_gradient_is_gone():
    # Beyond the bounds on the side where the advantage would push it further, and nowhere else.
    ratio_N = torch.tensor([1.5, 1.5, 1.5, 0.5, 0.5, 0.5, 0.5, 1.1])
    advantages_N = torch.tensor([1.0, -1.0, 0.0, 1.0, 0.0, -1.0, 1.0, 1.0])
    assert ratio_metrics(ratio_N, advantages_N, LossConfig(clipped)) == pytest.approx(
        {"ratio_mean": 7.6 / 8, "ratio_max": 1.5, "clip_low": 1 / 8, "clip_high": 1 / 8}
    )


@pytest.mark.parametrize(
    ("level", "ess", "weight"),
    [
        # Ratios old / sampler 2, 2 and 1; weights with 3 as the largest.
        ("token", 5**2 / (3 * 9), 5 / 3),
        ("sequence", 5**2 / (2 * 17), (3 + 3 + 1) / 3),
        ("geometric", 3**2 / (2 * 5), 5 / 3),
    ],
)
def test_sampler_metrics_by_hand(level, ess, weight):
    old_N, sampler_N = torch.tensor([0.2, 0.4, 0.3]).log(), torch.tensor([0.1, 0.2, 0.3]).log()
    spec = MismatchSpec(mode="truncate", level=level, clip_max=3.0)
    metrics = sampler_metrics(old_N, sampler_N, SEQUENCES, spec)
    assert metrics == pytest.approx(
        {
            # d = log(old / sampler) is log 2, log 2, 0. k1 is -d, k3 exp(d) - 1 - d.
            "sampler_kl_k1": -2 * math.log(2) / 3,
            "sampler_kl_k3": 2 * (1 - math.log(2)) / 3,
            "sampler_delta_mean": 2 * math.log(2) / 3,
            "sampler_delta_max": math.log(2),
            "ess": ess,
            "mismatch_weight_mean": weight,
            "mismatch_clipped": 2 / 3 if level == "sequence" else 0.0,
        },
        rel=1e-5,
    )


def test_a_sampler_is_as_far_off_below_as_above():
    # d is log 2, -log 4 and 0.
    old_N, sampler_N = torch.tensor([0.2, 0.1, 0.3]).log(), torch.tensor([0.1, 0.4, 0.3]).log()
    metrics = sampler_metrics(old_N, sampler_N, SEQUENCES, MismatchSpec(mode="off"))
    assert metrics["sampler_delta_mean"] == pytest.approx(math.log(2))
    assert metrics["sampler_delta_max"] == pytest.approx(2 * math.log(2))


def test_critic_metrics_by_hand():
    now_K, old_K, returns_K = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.0])
    # Errors 1 and -1 now; 1 and -0.5 before, with a variance of 1.125 against the returns' 0.5.
    assert critic_metrics(now_K, old_K, returns_K, None) == pytest.approx(
        {
            "value_loss": 0.5,
            "value_clip": 0.0,
            "value_mean": 0.25,
            "returns_mean": 0.5,
            "explained_variance": -1.25,
        }
    )


def test_without_a_correction_nothing_is_clipped():
    old_N, sampler_N = torch.tensor([0.2, 0.4, 0.3]).log(), torch.tensor([0.1, 0.2, 0.3]).log()
    metrics = sampler_metrics(old_N, sampler_N, SEQUENCES, MismatchSpec(mode="off"))
    assert (metrics["mismatch_clipped"], metrics["mismatch_weight_mean"]) == (0.0, 1.0)


def test_a_sampler_that_says_nothing_is_not_measured():
    assert sampler_metrics(torch.zeros(3), torch.full((3,), math.nan), SEQUENCES, MismatchSpec()) == {}


def test_tokens_left_out_as_off_policy_are_counted():
    # Sequence 0 is bad and log 2 away on average; sequence 1 is good.
    policy_N, sampler_N = torch.tensor([0.1, 0.1, 0.1]).log(), torch.tensor([0.2, 0.2, 0.2]).log()
    advantages_N = torch.tensor([-1.0, -1.0, 1.0])
    inputs = LossInputs(policy_N, policy_N, sampler_N, advantages_N, SEQUENCES, torch.zeros(3))
    members = [rollout("g/0", ([1], [2, 3])), rollout("g/1", ([1], [4]))]
    batch = to_batch([group("g", members, [0.0, 1.0])], mask_truncated=False, min_valid=1.0)
    for threshold, dropped in ((0.7, 0.0), (0.69, 2 / 3)):
        seen = Seen()
        config = LossConfig(clipped, mismatch=MismatchSpec(off_policy_threshold=threshold))
        seen.add(torch.arange(3), inputs, config)
        assert seen.metrics(batch, config, None)["off_policy_dropped"] == pytest.approx(dropped)

"""Group-relative credit, against arithmetic done by hand and against TRL's formula."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_cases import group, rollout
from trl.trainer.utils import nanstd

from rft.learn.advantage import group_advantages
from rft.learn.batch import to_batch
from rft.learn.credit import assign_credit
from rft.recipe.schema import AlgorithmSpec


def test_three_rewards_by_hand():
    # 0, 1, 2: mean 1, unbiased variance (1 + 0 + 1) / 2 = 1, so -1 / 1.0001, 0, 1 / 1.0001.
    rewards_S, group_S = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 0, 0])
    assert group_advantages(rewards_S, group_S, "group").tolist() == pytest.approx(
        [-1 / 1.0001, 0, 1 / 1.0001]
    )
    assert group_advantages(rewards_S, group_S, "none").tolist() == pytest.approx([-1, 0, 1])


def test_the_batch_deviation_is_over_rewards_of_all_groups():
    rewards_S, group_S = torch.tensor([0.0, 1.0, 3.0, 3.0]), torch.tensor([0, 0, 1, 1])
    # All four: mean 7/4, unbiased variance (49 + 9 + 25 + 25) / 16 / 3 = 2.25, deviation 1.5.
    expected = [-0.5 / 1.5001, 0.5 / 1.5001, 0.0, 0.0]
    assert group_advantages(rewards_S, group_S, "batch").tolist() == pytest.approx(expected)


@given(reward=st.floats(-1e3, 1e3), size=st.integers(2, 9), scale=st.sampled_from(["group", "batch", "none"]))
def test_equal_rewards_give_exactly_zero(reward, size, scale):
    advantages_S = group_advantages(torch.full((size,), reward), torch.zeros(size, dtype=torch.long), scale)
    assert advantages_S.tolist() == [0.0] * size


@given(st.lists(st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4), min_size=1, max_size=4))
def test_full_groups_agree_with_trl(rewards_PG):
    # The lines of TRL 1.16's GRPOTrainer for scale_rewards "group" and "batch", on its own nanstd.
    rewards = torch.tensor(rewards_PG, dtype=torch.float64)
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    group_S = torch.arange(len(rewards_PG)).repeat_interleave(4)
    theirs = {
        "group": centred / (nanstd(rewards, dim=1, keepdim=True) + 1e-4),
        "batch": centred / (nanstd(rewards) + 1e-4),
    }
    for scale, expected in theirs.items():
        ours = group_advantages(rewards.flatten(), group_S, scale)
        torch.testing.assert_close(ours, expected.flatten().float(), rtol=1e-5, atol=1e-5)


def test_order_of_members_does_not_matter():
    rewards_S, group_S = torch.tensor([0.0, 5.0, 1.0, 7.0, 2.0]), torch.tensor([0, 1, 0, 1, 0])
    order = torch.tensor([3, 0, 4, 1, 2])
    ours = group_advantages(rewards_S, group_S, "group")[order]
    torch.testing.assert_close(group_advantages(rewards_S[order], group_S[order], "group"), ours)


def test_every_token_of_a_sequence_carries_its_advantage():
    members = [rollout("g/0", ([1], [2, 3])), rollout("g/1", ([1], [4]))]
    batch = to_batch([group("g", members, [0.0, 1.0])], mask_truncated=False, min_valid=1.0)
    half = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert assign_credit(batch, AlgorithmSpec()).advantages_N.tolist() == pytest.approx([-half, -half, half])


def test_no_rewards_give_no_advantages():
    assert group_advantages(torch.zeros(0), torch.zeros(0, dtype=torch.long), "group").tolist() == []

"""Group-relative credit, against arithmetic done by hand and against TRL's formula."""

from __future__ import annotations

import math
import statistics
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_cases import group, rollout
from trl.trainer.utils import nanstd

from rft.learn.advantage import gdpo, group_advantages, leave_one_out, max_rl
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


def test_leave_one_out_by_hand():
    # 0, 1, 5: the others' means are 3, 2.5 and 0.5. A lone member has no others.
    rewards_S, group_S = torch.tensor([0.0, 1.0, 5.0, 7.0]), torch.tensor([0, 0, 0, 1])
    assert leave_one_out(rewards_S, group_S).tolist() == [-3.0, -1.5, 4.5, 0.0]


def test_max_rl_by_hand():
    # One of four solved: mean 1/4, so (1 - 1/4) / (1/4) = 3 and -1. Nothing solved: nothing to learn.
    rewards_S, group_S = torch.tensor([1.0, 0, 0, 0, 0, 0]), torch.tensor([0, 0, 0, 0, 1, 1])
    assert max_rl(rewards_S, group_S).tolist() == [3.0, -1.0, -1.0, -1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"never negative, got -0\.5"):
        max_rl(torch.tensor([1.0, -0.5]), torch.tensor([0, 0]))


def test_gdpo_by_hand():
    # Part a: 0, 2 in group 0 and 1, 1 in group 1; part b: 10, 0 and 0, 10, with weight 1/2.
    # Deviations: a sqrt(2), b sqrt(50), so a gives -1, 1 over sqrt(2), b 5, -5 over sqrt(50), the same size.
    # Sums: (-1 + 1/2), (1 - 1/2), (0 - 1/2), (0 + 1/2) over sqrt(2): all of one size, with deviation
    # sqrt(4 (0.5 / sqrt(2))^2 / 3); each then is -+ 0.5 / sqrt(2) over that: sqrt(3) / 2.
    parts_SK = torch.tensor([[0.0, 10.0], [2.0, 0.0], [1.0, 0.0], [1.0, 10.0]])
    group_S = torch.tensor([0, 0, 1, 1])
    found = gdpo(parts_SK, torch.tensor([1.0, 0.5]), torch.zeros(4), group_S)
    size = math.sqrt(3) / 2
    assert found.tolist() == pytest.approx([-size, size, -size, size], rel=1e-3)


def test_gdpo_leaves_a_part_out_for_the_group_that_lacks_it():
    parts_SK = torch.tensor([[0.0, 9.0], [1.0, math.nan], [0.0, 1.0], [1.0, 0.0]])
    group_S, rewards_S = torch.tensor([0, 0, 1, 1]), torch.zeros(4)
    found = gdpo(parts_SK, torch.ones(2), rewards_S, group_S)
    without = parts_SK.clone()
    without[:2, 1] = 0.0  # as if the part had been the same for both
    torch.testing.assert_close(found, gdpo(without, torch.ones(2), rewards_S, group_S))
    assert found[0] == -found[1] != 0


@pytest.mark.parametrize("parts_SK", [torch.zeros(4, 0), torch.full((4, 1), math.nan)])
def test_gdpo_without_parts_takes_the_score_for_its_only_part(parts_SK):
    rewards_S, group_S = torch.tensor([0.0, 1.0, 0.0, 3.0]), torch.tensor([0, 0, 1, 1])
    weights_K = torch.ones(parts_SK.shape[1])
    as_part = gdpo(rewards_S[:, None], torch.ones(1), rewards_S, group_S)
    assert torch.equal(gdpo(parts_SK, weights_K, rewards_S, group_S), as_part)


def test_gdpo_ignores_a_part_that_only_reports():
    parts_SK, group_S = torch.tensor([[0.0, 5.0], [1.0, 2.0], [4.0, 7.0]]), torch.zeros(3, dtype=torch.long)
    reported = gdpo(parts_SK, torch.tensor([2.0, 0.0]), torch.zeros(3), group_S)
    assert torch.equal(reported, gdpo(parts_SK[:, :1], torch.tensor([2.0]), torch.zeros(3), group_S))
    rewards_S = torch.tensor([1.0, 0.0, 0.5])
    nothing_counts = gdpo(parts_SK, torch.zeros(2), rewards_S, group_S)
    assert torch.equal(nothing_counts, gdpo(parts_SK[:, :0], torch.zeros(0), rewards_S, group_S))


def slow_advantages(rewards, groups, kind):
    """Member by member, with the statistics module."""
    out = []
    for index, (reward, own) in enumerate(zip(rewards, groups, strict=True)):
        members = [r for r, g in zip(rewards, groups, strict=True) if g == own]
        others = [r for k, (r, g) in enumerate(zip(rewards, groups, strict=True)) if g == own and k != index]
        mean = statistics.fmean(members)
        if kind == "rloo":
            out.append(reward - statistics.fmean(others) if others else 0.0)
        elif kind == "max_rl":
            out.append((reward - mean) / mean if mean > 0 else 0.0)
        else:
            deviation = {
                "group": statistics.stdev(members) if others else 0.0,
                "batch": statistics.stdev(rewards) if len(rewards) > 1 else 0.0,
                "none": 1.0 - 1e-4,
            }[kind]
            out.append((reward - mean) / (deviation + 1e-4))
    return out


ESTIMATORS = {
    "rloo": leave_one_out,
    "max_rl": max_rl,
    **{scale: partial(group_advantages, scale=scale) for scale in ("group", "batch", "none")},
}


@given(
    kind=st.sampled_from(sorted(ESTIMATORS)),
    members=st.lists(st.tuples(st.floats(0, 10, width=16), st.integers(0, 2)), min_size=1, max_size=9),
    data=st.data(),
)
def test_every_estimator_agrees_with_the_slow_one_in_any_order(kind, members, data):
    rewards, groups = zip(*members, strict=True)
    rewards_S, group_S = torch.tensor(rewards), torch.tensor(groups)
    found = ESTIMATORS[kind](rewards_S, group_S)
    expected = torch.tensor(slow_advantages(rewards, groups, kind))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    order = torch.tensor(data.draw(st.permutations(range(len(rewards)))))
    mixed = ESTIMATORS[kind](rewards_S[order], group_S[order])
    torch.testing.assert_close(mixed, found[order], rtol=1e-5, atol=1e-5)


@given(st.lists(st.floats(0, 1, width=16), min_size=2, max_size=6), st.floats(1, 8, width=16))
def test_shift_and_scale_of_rewards(rewards, factor):
    rewards_S, group_S = torch.tensor(rewards), torch.zeros(len(rewards), dtype=torch.long)
    for kind in ("rloo", "none"):
        found = ESTIMATORS[kind](rewards_S, group_S)
        torch.testing.assert_close(ESTIMATORS[kind](rewards_S * factor + 3, group_S), found * factor)
    found = max_rl(rewards_S, group_S)
    torch.testing.assert_close(max_rl(rewards_S * factor, group_S), found, rtol=1e-4, atol=1e-5)
    assert found.max() <= len(rewards) - 1 + 1e-4


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_two_rewards_have_a_deviation(scale):
    # 0 and 1 deviate by sqrt(1/2) around 1/2.
    found = group_advantages(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), scale)
    assert found.tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=2e-4)

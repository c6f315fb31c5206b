"""Credit through whole batches: KL in the reward, REINFORCE++, PPO, one's own, and what holds for all."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from learn_cases import (
    batch_of,
    credit,
    gradient_of,
    group,
    grouped,
    measured,
    random_groups,
    rollout,
    tiny_llama,
    turned,
)

from rft.errors import UserError
from rft.learn.advantage import gdpo, group_advantages
from rft.learn.credit import assign_credit, gdpo_credit, token_rewards
from rft.learn.gae import gae, whiten
from rft.recipe.schema import AlgorithmSpec
from rft.recipe.schema.algorithm import ADVANTAGES
from rft.types import Score

RELATIVE = ("group", "rloo", "max_rl")
IN_REWARD = {"beta": 0.1, "kl": {"place": "reward", "estimator": "k1"}}


# --- KL in the reward ----------------------------------------------------------------------------------


def test_a_penalty_on_each_token_by_hand():
    # k1: old - ref = 0.5, 0, -1 and 0; beta 0.1. The score 1 is the first's, 0 the second's.
    groups = [group("g", [rollout("g/0", ([1], [2, 3, 4])), rollout("g/1", ([1], [5]))], [1.0, 0.0])]
    batch = batch_of(
        groups,
        old_logprobs_N=torch.tensor([-1.0, -2, -3, -1]),
        ref_logprobs_N=torch.tensor([-1.5, -2, -2, -1]),
    )
    rewards_N = token_rewards(batch, AlgorithmSpec(**IN_REWARD))
    assert rewards_N.tolist() == pytest.approx([-0.05, 0.0, 1.1, 0.0])
    # Off the rollout's reward: 1 - 0.05 + 0.1 = 1.05 against 0.
    assert credit(batch, advantage="rloo", **IN_REWARD).tolist() == pytest.approx([1.05] * 3 + [-1.05])
    # REINFORCE++: what follows each token, 1.05, 1.1, 1.1 and 0, whitened.
    expected = whiten(torch.tensor([1.05, 1.1, 1.1, 0.0]))
    torch.testing.assert_close(credit(batch, advantage="reinforce_pp", **IN_REWARD), expected)


def test_under_turn_credit_a_turn_pays_for_its_own_divergence_and_what_follows():
    batch = batch_of([grouped(turned("g/0", 1.0, (0.0, 0.0), 1, 1), turned("g/1", 0.0, (0.0, 0.0), 1, 1))])
    batch = replace(batch, old_logprobs_N=torch.tensor([1.0, 2, 0, 0]), ref_logprobs_N=torch.zeros(4))
    # The first pays 0.1 + 0.2 from its first turn on, and 0.2 from its second.
    found = credit(batch, advantage="rloo", turn_credit="turn", **IN_REWARD)
    assert found.tolist() == pytest.approx([0.7, 0.8, -0.7, -0.8])


def test_a_penalty_needs_a_measured_batch():
    with pytest.raises(ValueError, match="needs log-probabilities"):
        credit(batch_of(random_groups(0)), **IN_REWARD)


def test_a_policy_like_its_reference_pays_nothing_however_many_turns_it_takes():
    batch = batch_of([grouped(turned("g/0", 1.0, (0.0, 0.0), 1, 1), turned("g/1", 0.0, (0.0,), 1))])
    batch = replace(batch, old_logprobs_N=torch.zeros(3), ref_logprobs_N=torch.zeros(3))
    found = credit(batch, advantage="rloo", turn_credit="turn", **IN_REWARD)
    assert torch.equal(found, credit(batch, advantage="rloo", turn_credit="turn"))


def test_a_penalty_of_weight_zero_needs_no_reference():
    batch = batch_of(random_groups(0))
    assert torch.equal(credit(batch, **{**IN_REWARD, "beta": 0.0}), credit(batch))


def test_a_penalty_is_measured_before_the_update_though_the_update_is_on_policy():
    model, reference, groups = tiny_llama(), tiny_llama(seed=1), random_groups(2)
    _, with_penalty = gradient_of(model, groups, AlgorithmSpec(**IN_REWARD), reference=reference)
    _, without = gradient_of(model, groups, AlgorithmSpec())
    name = next(iter(without))
    assert not torch.allclose(with_penalty[name], without[name])


def test_a_divergence_in_the_loss_leaves_rewards_alone():
    batch = measured(batch_of(random_groups(0)))
    assert torch.equal(credit(batch, beta=0.1), credit(batch))


# --- parts of the score --------------------------------------------------------------------------------


def test_a_part_without_a_weight_counts_once():
    batch = batch_of([group("g", [rollout(f"g/{i}", ([1], [2])) for i in range(3)], [0.0, 1.0, 5.0])])
    parts_SK = torch.tensor([[0.0, 3.0], [1.0, 0.0], [2.0, 1.0]])
    batch = replace(batch, part_names=("named", "other"), parts_SK=parts_SK)
    expected = gdpo(parts_SK, torch.tensor([0.5, 1.0]), batch.rewards_S, batch.group_S)
    torch.testing.assert_close(gdpo_credit(batch, weights={"named": 0.5}), expected)
    assert torch.equal(gdpo_credit(batch), gdpo_credit(batch, weights={"named": 1.0, "other": 1.0}))


# --- REINFORCE++ and PPO -------------------------------------------------------------------------------


def test_reinforce_pp_normalises_over_tokens_and_its_baseline_form_subtracts_the_groups_mean_first():
    rollouts = [rollout(f"g/{i}", ([1], [2] * length)) for i, length in enumerate((1, 2, 1))]
    batch = batch_of([group("g", rollouts, [0.0, 1.0, 5.0])])
    torch.testing.assert_close(
        credit(batch, advantage="reinforce_pp"), whiten(torch.tensor([0.0, 1.0, 1.0, 5.0]))
    )
    two = batch_of([group("g", rollouts, [0.0, 1.0, 5.0]), group("h", rollouts, [10.0, 10.0, 13.0])])
    centred = [-2.0, -1, -1, 3, -1, -1, -1, 2]
    torch.testing.assert_close(credit(two, advantage="reinforce_pp_baseline"), whiten(torch.tensor(centred)))


@pytest.mark.parametrize("turn_credit", ["rollout", "turn"])
@pytest.mark.parametrize("whitened", [True, False])
def test_ppo_takes_gae_of_what_tokens_earned(turn_credit, whitened):
    batch = measured(batch_of(random_groups(5, multi_turn=True)))
    values = tuple(
        (0.5,) * (int(batch.turn_N[batch.sequence_N == one].max()) + 1) for one in range(len(batch.sequences))
    )
    batch = replace(batch, turn_rewards=values)
    algorithm = AlgorithmSpec(
        kind="ppo",
        turn_credit=turn_credit,
        critic={"gamma": 0.9, "lam": 0.5, "whiten": whitened},
        **IN_REWARD,
    )
    made = assign_credit(batch, algorithm)
    rewards_N = token_rewards(batch, algorithm)
    advantages_N, returns_N = gae(rewards_N, batch.values_N, batch.sequence_N, gamma=0.9, lam=0.5)
    torch.testing.assert_close(made.advantages_N, whiten(advantages_N) if whitened else advantages_N)
    torch.testing.assert_close(made.returns_N, returns_N)


def test_ppo_by_hand_skips_what_was_not_sampled():
    # Two turns of one token with context between: values 0.5 and 0.25, score 1, gamma and lambda 1:
    # A = 1 - 0.5 and 1 - 0.25: the second token follows the first at once.
    batch = batch_of([grouped(turned("g/0", 1.0, None, 1, 1))], values_N=torch.tensor([0.5, 0.25]))
    made = assign_credit(batch, AlgorithmSpec(kind="ppo", critic={"lam": 1.0, "whiten": False}))
    assert made.advantages_N.tolist() == [0.5, 0.75]
    assert made.returns_N.tolist() == [1.0, 1.0]


def test_a_truncated_rollout_is_not_bootstrapped():
    kept, cut = (
        batch_of([group("g", [rollout("g/0", ([1], [2, 3]), stop=stop)], [0.5])], values_N=torch.ones(2))
        for stop in ("eos", "length")
    )
    algorithm = AlgorithmSpec(kind="ppo", critic={"whiten": False})
    assert torch.equal(assign_credit(kept, algorithm).returns_N, assign_credit(cut, algorithm).returns_N)


def test_ppo_needs_a_measured_batch():
    with pytest.raises(ValueError, match="needs the critic's values"):
        credit(batch_of(random_groups(0)), kind="ppo")


# --- what holds for all --------------------------------------------------------------------------------


def every_way():
    ways = [{"advantage": name} for name in ADVANTAGES]
    ways += [
        {"advantage": name, "turn_credit": "turn"} for name in ADVANTAGES if name not in ("max_rl", "gdpo")
    ]
    return [*ways, {"scale_rewards": "batch"}, {"kind": "ppo"}, {"kind": "ppo", "turn_credit": "turn"}]


@pytest.mark.parametrize("way", every_way(), ids=str)
def test_masked_members_change_nothing_for_the_others(way):
    groups = random_groups(7, multi_turn=True)
    with_masked = [
        replace(
            one,
            rollouts=[*one.rollouts, rollout(f"{one.id}/x", ([9], [9]))],
            scores=[*one.scores, Score.skip("?")],
        )
        for one in groups
    ]
    assert torch.equal(
        credit(measured(batch_of(with_masked)), **way), credit(measured(batch_of(groups)), **way)
    )


@pytest.mark.parametrize("way", [way for way in every_way() if "kind" not in way], ids=str)
def test_the_order_of_groups_and_members_does_not_matter(way):
    groups = random_groups(8, multi_turn=True)
    mixed = [replace(one, rollouts=one.rollouts[::-1], scores=one.scores[::-1]) for one in groups[::-1]]

    def by_rollout(groups):
        batch = batch_of(groups)
        tokens = zip(batch.sequence_N.tolist(), credit(batch, **way).tolist(), strict=True)
        return sorted((batch.sequences[s].rollout_id, round(value, 4)) for s, value in tokens)

    assert by_rollout(mixed) == by_rollout(groups)


@pytest.mark.parametrize("advantage", RELATIVE)
@pytest.mark.parametrize("reward", [0.1, 1 / 3, 0.7])
def test_a_group_whose_rewards_are_equal_has_no_credit_at_all(advantage, reward):
    batch = batch_of([group("g", [rollout(f"g/{i}", ([1], [2, 3])) for i in range(3)], [reward] * 3)])
    assert credit(batch, advantage=advantage).tolist() == [0.0] * 6
    assert not AlgorithmSpec(advantage=advantage).trains_constant, "so it need not be computed"


def test_a_batch_without_tokens_has_no_credit():
    empty = batch_of([])
    for way in every_way():
        assert credit(empty, **way).tolist() == []


# --- one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_token", [True, False])
def test_ones_own_credit_may_be_given_by_sequence_or_by_token(per_token):
    batch = batch_of(random_groups(1))

    def own(batch):
        return batch.rewards_S[batch.sequence_N] if per_token else batch.rewards_S

    made = assign_credit(batch, AlgorithmSpec(advantage="./x.py:own"), own)
    assert torch.equal(made.advantages_N, batch.rewards_S[batch.sequence_N])


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (torch.zeros(3), r"returned shape \(3,\); return one advantage for each sequence, \(12,\)"),
        (torch.zeros(12, 1), r"returned shape \(12, 1\)"),
        (torch.full((12,), math.nan), "returned advantages that are not finite"),
        ([0.0] * 12, "returned list, not a tensor"),
        (ZeroDivisionError("oh"), "raised ZeroDivisionError: oh"),
    ],
)
def test_broken_credit_is_told_in_one_line(returned, said):
    def own(batch):
        if isinstance(returned, Exception):
            raise returned
        return returned

    with pytest.raises(UserError, match=f"algorithm.advantage ./x.py:own {said}"):
        assign_credit(batch_of(random_groups(1)), AlgorithmSpec(advantage="./x.py:own"), own)


def test_a_name_that_was_not_resolved_is_an_error():
    with pytest.raises(ValueError, match="resolve it"):
        credit(batch_of(random_groups(1)), advantage="./x.py:own")


def test_max_rl_says_what_it_cannot_take():
    batch = batch_of([group("g", [rollout(f"g/{i}", ([1], [2])) for i in range(2)], [-1.0, 1.0])])
    with pytest.raises(UserError, match="never negative, got -1; take another"):
        credit(batch, advantage="max_rl")


def test_the_default_is_grpos():
    batch = batch_of(random_groups(4, multi_turn=True))
    expected_S = group_advantages(batch.rewards_S, batch.group_S, "group")
    assert torch.equal(credit(batch), expected_S[batch.sequence_N])

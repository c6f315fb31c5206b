"""Credit by turns: by hand, and against a slow second version."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_cases import batch_of, credit, grouped, random_groups, rollout, turned

from rft.learn.batch import Batch
from rft.learn.credit import token_rewards, turn_returns
from rft.recipe.schema import AlgorithmSpec
from rft.types import Group, Score


def test_two_turns_by_hand():
    # Returns: 1 with 0.25 earned in turn 0 leaves 1, 0.75; 0 with 0.25 earned leaves 0, -0.25.
    batch = batch_of([grouped(turned("g/0", 1.0, (0.25, 0.5), 2, 1), turned("g/1", 0.0, (0.25, 0.0), 1, 2))])
    assert turn_returns(batch, batch.turn_N).tolist() == [[1.0, 0.75], [0.0, -0.25]]
    # Each token's return to go is its turn's: 1 1 0.75 | 0 -0.25 -0.25, so what is earned is
    # 0 0.25 0.75 | 0.25 0 -0.25, and adds up to the scores.
    rewards_N = token_rewards(batch, AlgorithmSpec(turn_credit="turn"))
    assert rewards_N.tolist() == [0.0, 0.25, 0.75, 0.25, 0.0, -0.25]
    # Both turns: centred by +-1/2.
    found = credit(batch, turn_credit="turn", scale_rewards="none")
    assert found.tolist() == [0.5, 0.5, 0.5, -0.5, -0.5, -0.5]


def test_a_rollout_that_ended_stands_in_with_its_last_turn():
    # Turn 0: 1 and 0. Turn 1 is taken by the first alone: 1 - 0.5 = 0.5, against the other's last return, 0.
    batch = batch_of([grouped(turned("g/0", 1.0, (0.5, 0.5), 1, 1), turned("g/1", 0.0, (0.0,), 1))])
    found = credit(batch, turn_credit="turn", advantage="rloo")
    assert found.tolist() == [1.0, 0.5, -1.0]


def test_an_environment_that_paid_early_moves_credit_to_the_turn_that_earned_it():
    paid = [
        replace(rollout(f"g/{i}", ([1], [2]), ([3], [4])), rewards=r) for i, r in enumerate([(1, 0), (0, 0)])
    ]
    batch = batch_of([Group("g", paid[0].task, paid, [Score(1.0), Score(0.0)])])
    found = credit(batch, turn_credit="turn", scale_rewards="none")
    assert found.tolist() == [0.5, 0.0, -0.5, 0.0], "what came after the reward was the same for both"


@pytest.mark.parametrize("advantage", ["group", "rloo", "reinforce_pp", "reinforce_pp_baseline"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_where_only_the_outcome_counts_turns_and_rollouts_get_the_same_credit(advantage, scale):
    batch = batch_of(random_groups(2, multi_turn=True))
    assert batch.turn_N.max() > 0
    same = {"advantage": advantage, "scale_rewards": scale}
    torch.testing.assert_close(credit(batch, **same, turn_credit="turn"), credit(batch, **same))


def _num_turns(batch: Batch) -> list[int]:
    return [int(batch.turn_N[batch.sequence_N == one].max()) + 1 for one in range(len(batch.sequences))]


def slow_turn_credit(batch: Batch) -> list[float]:
    """Rollout by rollout and turn by turn, for `rloo`."""
    owner, turn_of = batch.sequence_N.tolist(), batch.turn_N.tolist()
    turns = [
        max(t for s, t in zip(owner, turn_of, strict=True) if s == one) + 1
        for one in range(len(batch.sequences))
    ]

    def to_go(one: int, turn: int) -> float:
        turn = min(turn, turns[one] - 1)
        return batch.rewards_S[one].item() - sum(batch.turn_rewards[one][:turn])

    out = []
    for one, turn in zip(owner, turn_of, strict=True):
        others = [k for k, g in enumerate(batch.group_S.tolist()) if g == batch.group_S[one] and k != one]
        out.append(to_go(one, turn) - sum(to_go(other, turn) for other in others) / len(others))
    return out


@given(
    st.lists(
        st.tuples(st.floats(-1, 1, width=16), st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=4)),
        min_size=2,
        max_size=5,
    )
)
def test_turn_credit_agrees_with_the_slow_version(members):
    made = [
        turned(f"g/{index}", score, tuple(values), *[1 + index % 2] * len(values))
        for index, (score, values) in enumerate(members)
    ]
    batch = batch_of([grouped(*made)])
    found = credit(batch, turn_credit="turn", advantage="rloo")
    torch.testing.assert_close(found, torch.tensor(slow_turn_credit(batch)), rtol=1e-5, atol=1e-5)


@given(st.integers(0, 50), st.sampled_from(["rollout", "turn"]))
def test_what_tokens_earn_adds_up_to_the_score(seed, turn_credit):
    batch = batch_of(random_groups(seed, multi_turn=True))
    values = tuple(tuple(0.1 * (k + 1) for k in range(one)) for one in range(len(batch.sequences)))
    batch = replace(batch, turn_rewards=values)
    rewards_N = token_rewards(batch, AlgorithmSpec(turn_credit=turn_credit))
    total_S = torch.zeros(len(batch.sequences), dtype=torch.float64).index_add(0, batch.sequence_N, rewards_N)
    torch.testing.assert_close(total_S.float(), batch.rewards_S)

"""Who is trained on, and what a batch counts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from learn_cases import group, random_groups, rollout

from rft.learn.batch import to_batch
from rft.types import Group, Score


def _members(rewards, *, name="g", stops=None):
    stops = stops or ["eos"] * len(rewards)
    rollouts = [
        rollout(f"{name}/{index}", ([1, 2], [10 + index, 20]), stop=stop) for index, stop in enumerate(stops)
    ]
    return group(name, rollouts, rewards)


def test_only_sampled_tokens_of_every_turn_are_policy_tokens():
    two_turns = rollout("g/0", ([1, 2], [3, 4]), ([5, 6, 7], [8]))
    one_turn = rollout("g/1", ([1, 2], [9]))
    batch = to_batch([group("g", [two_turns, one_turn], [0.0, 1.0])], mask_truncated=False, min_valid=1.0)

    assert batch.sequences[0].token_ids == (1, 2, 3, 4, 5, 6, 7, 8)
    assert batch.sequences[0].policy_positions == (2, 3, 7)
    assert batch.target_ids_N.tolist() == [3, 4, 8, 9]
    assert batch.sequence_N.tolist() == [0, 0, 0, 1]
    sampled = [*two_turns.turns[0].logprobs, *two_turns.turns[1].logprobs, *one_turn.turns[0].logprobs]
    assert batch.sampler_logprobs_N.tolist() == pytest.approx(sampled)


def test_members_without_a_score_never_enter():
    batch = to_batch([_members([1.0, None, 0.0, 0.5])], mask_truncated=False, min_valid=0.75)
    assert [one.rollout_id for one in batch.sequences] == ["g/0", "g/2", "g/3"]
    assert batch.rewards_S.tolist() == [1.0, 0.0, 0.5]
    assert batch.stats.rollouts_unscored == 1


def test_truncated_members_are_left_out_only_when_asked():
    cut = _members([1.0, 0.0, 0.5], stops=["eos", "length", "max_turns"])
    assert len(to_batch([cut], mask_truncated=False, min_valid=0.75).sequences) == 3
    masked = to_batch([cut, _members([0.0, 1.0], name="h")], mask_truncated=True, min_valid=0.75)
    assert [one.rollout_id for one in masked.sequences] == ["h/0", "h/1"], "one member left is no group"
    assert masked.stats.rollouts_truncated == 2
    assert masked.stats.groups_too_few == 1


@pytest.mark.parametrize(
    ("size", "min_valid", "scored", "kept"),
    [
        (8, 0.75, 6, True),
        (8, 0.75, 5, False),
        (10, 0.7, 7, True),
        (3, 0.5, 2, True),
        (2, 0.0, 1, False),
        (4, 0.0, 2, True),
    ],
)
def test_a_group_needs_enough_scored_members(size, min_valid, scored, kept):
    rewards = [float(index) for index in range(scored)] + [None] * (size - scored)
    batch = to_batch([_members(rewards)], mask_truncated=False, min_valid=min_valid)
    assert bool(batch.sequences) is kept
    assert batch.stats.groups_too_few == (0 if kept else 1)


def test_groups_without_variance_are_counted_and_computed_only_when_needed():
    groups = [_members([0.5, 0.5], name="same"), _members([0.0, 1.0], name="apart")]
    batch = to_batch(groups, mask_truncated=False, min_valid=0.75)
    assert (batch.stats.groups_used, batch.stats.groups_constant) == (1, 1)
    assert batch.trains_S.tolist() == [False, False, True, True]
    kept = to_batch(groups, mask_truncated=False, min_valid=0.75, keep_constant=True)
    assert kept.trains_S.all()


def test_reward_statistics_are_over_scored_members_of_all_groups():
    groups = [_members([1.0, None, None, None], name="dropped"), _members([0.0, 0.5], name="kept")]
    stats = to_batch(groups, mask_truncated=False, min_valid=0.75).stats
    assert stats.reward_mean == pytest.approx(0.5)
    assert stats.reward_std == pytest.approx(math.sqrt(1 / 6))
    assert stats.rollouts == 6


def test_an_empty_batch_has_no_reward():
    batch = to_batch([_members([None, None])], mask_truncated=False, min_valid=0.75)
    assert batch.num_tokens == 0
    assert math.isnan(batch.stats.reward_mean)
    assert batch.minibatches(2) == [[], []]


def test_minibatches_deal_whole_groups_and_spread_those_that_train():
    groups = [_members([0.5, 0.5], name=f"same{n}") for n in range(2)]
    groups += [_members([0.0, 1.0], name=f"apart{n}") for n in range(2)]
    batch = to_batch(groups, mask_truncated=False, min_valid=0.75)
    parts = batch.minibatches(2)
    assert sorted(index for part in parts for index in part) == list(range(8))
    for part in parts:
        assert {index // 2 for index in part if batch.trains_S[index]} != set()
        assert all((index ^ 1) in part for index in part), "a group is never torn apart"


def test_a_rollout_without_prompt_tokens_is_an_error():
    bad = group("g", [rollout("g/0", ([], [1])), rollout("g/1", ([2], [1]))], [0.0, 1.0])
    with pytest.raises(ValueError, match="g/0 has no prompt tokens"):
        to_batch([bad], mask_truncated=False, min_valid=0.75)


def test_a_turn_with_missing_logprobs_is_an_error():
    good = rollout("g/0", ([2], [1, 3]))
    bad = replace(good, turns=(replace(good.turns[0], logprobs=(-1.0,)),))
    with pytest.raises(ValueError, match="2 sampled tokens but 1 log-probabilities"):
        to_batch([group("g", [bad, good], [0.0, 1.0])], mask_truncated=False, min_valid=0.75)


def test_group_indices_are_dense_after_dropped_groups():
    groups = [_members([None, None], name="gone"), *random_groups(0, groups=2, size=2)]
    assert to_batch(groups, mask_truncated=False, min_valid=1.0).group_S.tolist() == [0, 0, 1, 1]


def test_every_token_knows_its_turn_and_every_turn_what_it_earned():
    pair = [
        replace(rollout(f"g/{name}", ([1, 2], [3, 4]), ([5], [8]), ([5], [6, 7])), rewards=rewards)
        for name, rewards in (
            ("judged", (9.0, 9.0, 9.0)),
            ("played", (None, 0.5, None)),
            ("silent", (None,) * 3),
        )
    ]
    scores = [Score(1.0, turn_values=(0.25, 0.5, 0.25)), Score(0.5), Score(0.0)]
    batch = to_batch([Group("g", pair[0].task, pair, scores)], mask_truncated=False, min_valid=1.0)
    assert batch.turn_N.tolist() == [0, 0, 1, 2, 2] * 3
    # The evaluator's word counts before the environment's; no opinion is nothing earned.
    assert batch.turn_rewards == ((0.25, 0.5, 0.25), (0.0, 0.5, 0.0), ())


def test_values_for_turns_that_were_not_taken_are_an_error():
    made = rollout("g/0", ([1], [2]))
    wrong = Group("g", made.task, [made, made], [Score(1.0, turn_values=(0.5, 0.5)), Score(0.0)])
    with pytest.raises(ValueError, match="g/0: 2 values for 1 turns"):
        to_batch([wrong], mask_truncated=False, min_valid=1.0)


def test_parts_stand_by_name_and_are_unknown_where_they_have_no_number():
    made = [rollout(f"g/{index}", ([1], [2])) for index in range(3)]
    scores = [
        Score(1.0, parts={"right": Score(1.0), "brief": Score(0.5)}),
        Score(0.0, parts={"right": Score(0.0), "brief": Score.failed("timeout", "late")}),
        Score(0.0, parts={"right": Score(0.25)}),
    ]
    batch = to_batch([Group("g", made[0].task, made, scores)], mask_truncated=False, min_valid=1.0)
    assert batch.part_names == ("brief", "right")
    assert batch.parts_SK[:, 1].tolist() == [1.0, 0.0, 0.25]
    assert batch.parts_SK[:, 0].isnan().tolist() == [False, True, True]
    assert to_batch([_members([0.0, 1.0])], mask_truncated=False, min_valid=1.0).parts_SK.shape == (2, 0)

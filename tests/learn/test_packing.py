"""Rows without padding: every policy token predicted once, from the right place, seeing the right tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learn_cases import group, random_groups, rollout

from rft.learn.batch import Batch, to_batch
from rft.learn.packing import MicroBatch, attention_mask, pack

PACKINGS = ["shared", "packed", "single"]


def _batch(groups) -> Batch:
    return to_batch(groups, mask_truncated=False, min_valid=0.0)


def test_the_row_of_the_docstring():
    # Prompt (1 2 3) with branches (4 5 | 6) and (7 8 9 | 10): the last token of each is not in the row.
    groups = [
        group(
            "g",
            [rollout("g/0", ([1, 2, 3], [4, 5, 6])), rollout("g/1", ([1, 2, 3], [7, 8, 9, 10]))],
            [0.0, 1.0],
        )
    ]
    (row,) = pack(_batch(groups), [0, 1], micro_batch_tokens=64, packing="shared")

    assert row.token_ids_T.tolist() == [1, 2, 3, 7, 8, 9, 4, 5], "longest branch first"
    assert row.position_ids_T.tolist() == [0, 1, 2, 3, 4, 5, 3, 4]
    assert row.branch_T.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert row.target_ids_M.tolist() == [7, 8, 9, 10, 4, 5, 6]
    assert row.source_M.tolist() == [2, 3, 4, 5, 2, 6, 7], "the prompt's end predicts both first tokens"
    assert row.index_M.tolist() == [3, 4, 5, 6, 0, 1, 2]


@pytest.mark.parametrize(("packing", "size"), [("shared", 8), ("packed", 11)])
def test_a_row_is_filled_to_its_last_place(packing, size):
    # Shared: 3 + 3 + 2. Packed: (3 + 3) + (3 + 2).
    members = [rollout("g/0", ([1, 2, 3], [4, 5, 6])), rollout("g/1", ([1, 2, 3], [7, 8, 9, 10]))]
    batch = _batch([group("g", members, [0.0, 1.0])])
    (row,) = pack(batch, [0, 1], micro_batch_tokens=size, packing=packing)
    assert len(row.token_ids_T) == size
    assert len(pack(batch, [0, 1], micro_batch_tokens=size - 1, packing=packing)) == 2


def _visible(row: MicroBatch, i: int, j: int) -> bool:
    same_tree = row.tree_T[i] == row.tree_T[j]
    return bool(j <= i and same_tree and (row.branch_T[j] == 0 or row.branch_T[j] == row.branch_T[i]))


@given(
    seed=st.integers(0, 10_000),
    budget=st.integers(1, 60),
    packing=st.sampled_from(PACKINGS),
    multi_turn=st.booleans(),
)
def test_every_policy_token_is_predicted_once_from_its_own_past(seed, budget, packing, multi_turn):
    batch = _batch(random_groups(seed, groups=2, multi_turn=multi_turn))
    rows = pack(batch, range(len(batch.sequences)), micro_batch_tokens=budget, packing=packing)

    assert sorted(index for row in rows for index in row.index_M.tolist()) == list(range(batch.num_tokens))
    for row in rows:
        mask_TT = attention_mask(row)
        count = len(row.token_ids_T)
        brute_TT = torch.tensor([[_visible(row, i, j) for j in range(count)] for i in range(count)])
        assert torch.equal(mask_TT, brute_TT)
        for source, index in zip(row.source_M.tolist(), row.index_M.tolist(), strict=True):
            sequence = batch.sequences[int(batch.sequence_N[index])]
            position = sequence.policy_positions[index - sequence.start]
            seen = mask_TT[source]
            # What the predicting token sees is exactly the rollout up to the target, in order.
            assert row.token_ids_T[seen].tolist() == list(sequence.token_ids[:position])
            assert row.position_ids_T[seen].tolist() == list(range(position))
        assert torch.equal(row.target_ids_M, batch.target_ids_N[row.index_M])


@given(seed=st.integers(0, 10_000), budget=st.integers(1, 60), packing=st.sampled_from(PACKINGS))
def test_rows_keep_the_budget_unless_one_sequence_alone_exceeds_it(seed, budget, packing):
    batch = _batch(random_groups(seed))
    for row in pack(batch, range(len(batch.sequences)), micro_batch_tokens=budget, packing=packing):
        sequences = batch.sequence_N[row.index_M].unique()
        assert len(row.token_ids_T) <= budget or len(sequences) == 1


def test_sharing_computes_a_prompt_once_for_the_whole_group():
    batch = _batch(random_groups(3, groups=1, size=8, prompt=(20, 20), completion=(5, 5)))
    tokens = {
        packing: sum(
            row.token_ids_T.numel() for row in pack(batch, range(8), micro_batch_tokens=1000, packing=packing)
        )
        for packing in ("shared", "packed")
    }
    assert tokens == {"shared": 20 + 8 * 4, "packed": 8 * (20 + 4)}


def test_members_with_another_prompt_get_their_own_tree():
    members = [rollout("g/0", ([1, 2], [5])), rollout("g/1", ([1, 3], [5])), rollout("g/2", ([1, 2], [6]))]
    (row,) = pack(
        _batch([group("g", members, [0.0, 1.0, 0.5])]), range(3), micro_batch_tokens=99, packing="shared"
    )
    assert row.token_ids_T.tolist() == [1, 2, 1, 3]
    assert row.tree_T.tolist() == [0, 0, 1, 1]


def test_what_does_not_train_or_sampled_nothing_is_not_computed():
    same = group("same", [rollout("same/0", ([1], [2])), rollout("same/1", ([1], [3]))], [1.0, 1.0])
    silent = group("g", [rollout("g/0", ([4], [])), rollout("g/1", ([4], [5]))], [0.0, 1.0])
    rows = pack(_batch([same, silent]), range(4), micro_batch_tokens=99, packing="shared")
    assert [row.target_ids_M.tolist() for row in rows] == [[5]]


@pytest.mark.parametrize("packing", PACKINGS)
def test_nothing_to_train_on_makes_no_rows(packing):
    assert pack(_batch([]), [], micro_batch_tokens=8, packing=packing) == []

"""Attention over trees against one dense mask over the whole row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import rft.learn.attention
from rft.learn.attention import tree_attention, trees_of
from rft.learn.packing import MicroBatch, attention_mask
from rft.learn.small_attention import SmallAttention

HEADS, KEY_HEADS, WIDTH = 4, 2, 8

trees = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(0, 5), min_size=1, max_size=4)), min_size=1, max_size=3
)


class _Layer(nn.Module):
    num_key_value_groups = HEADS // KEY_HEADS
    is_causal = True


def _row(shapes: list[tuple[int, list[int]]]) -> MicroBatch:
    tree, branch = [], []
    for number, (prompt, lengths) in enumerate(shapes):
        branches = [0] * prompt + [one for one, length in enumerate(lengths, 1) for _ in range(length)]
        branch += branches
        tree += [number] * len(branches)
    nothing = torch.empty(0, dtype=torch.long)
    tree_T, branch_T = torch.tensor(tree), torch.tensor(branch)
    return MicroBatch(tree_T, tree_T, tree_T, branch_T, nothing, nothing, nothing, "shared")


def _states(length: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Query, key and value of a row, as transformers hands them over."""
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(1, length, heads, WIDTH, generator=generator, dtype=torch.float64)
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for heads in (HEADS, KEY_HEADS, KEY_HEADS)
    ]


def _dense(states: list[Tensor], row: MicroBatch) -> Tensor:
    query, key, value = states
    groups = HEADS // KEY_HEADS
    return F.scaled_dot_product_attention(
        query,
        key.repeat_interleave(groups, 1),
        value.repeat_interleave(groups, 1),
        attn_mask=attention_mask(row),
        scale=0.3,
    ).transpose(1, 2)


@pytest.mark.parametrize("few", [0, 2, 128])
@settings(deadline=None, max_examples=40)
@given(shapes=trees)
def test_trees_attend_as_under_one_dense_mask(few, shapes):
    row = _row(shapes)
    length = len(row.tree_T)
    ours, theirs = _states(length), _states(length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rft.learn.attention, "_FEW", few)
        output, _ = tree_attention(_Layer(), *ours, None, trees=trees_of(row), scaling=0.3)
    expected = _dense(theirs, row)
    # Few tokens: scores in float32 whatever the dtype.
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    upstream = torch.randn_like(expected)
    for found, wanted in zip(
        torch.autograd.grad(output, ours, upstream),
        torch.autograd.grad(expected, theirs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_trees_become_forests_as_one_would_by_hand():
    # Row: p p a a a b | q q q q c | r c c c d d d. The second has one branch, so it is all prompt.
    found = trees_of(_row([(2, [3, 0, 1]), (4, [1]), (1, [3, 3])]))
    # Largest first: 4 + 2 * 3 * 5 pairs and 1 + 2 * 3 * 4, then the other kind.
    both, single = found.forests
    assert (both.trees, both.prompt_length, both.branches, both.branch_length) == (2, 2, 2, 3)
    assert both.hidden_tP.tolist() == [[False, False], [False, True]]
    assert (single.trees, single.prompt_length, single.branches) == (1, 5, 0)
    p, a, b, q, r, c, d = 0, 2, 5, 6, 11, 12, 15
    prompts, branches = [p, p + 1, r, r], [a, a + 1, a + 2, b, b, b, c, c + 1, c + 2, d, d + 1, d + 2]
    assert found.token_K.tolist() == [*prompts, *branches, *range(q, q + 5)]
    assert found.padding_Z.tolist() == [3, 8, 9]
    assert found.token_K[found.place_T].tolist() == list(range(18))


def test_trees_of_very_different_sizes_are_not_padded_to_each_other():
    found = trees_of(_row([(400, [50, 50]), (20, [5, 5]), (22, [5, 4])]))
    assert [forest.prompt_length for forest in found.forests] == [400, 22]


def test_in_half_precision_scores_are_still_float32():
    states = _states(40, torch.bfloat16)
    mask = torch.ones(40, 40, dtype=torch.bool).tril()
    exact = [one.detach().double() for one in states]
    expected = F.scaled_dot_product_attention(
        exact[0], *(one.repeat_interleave(2, 1) for one in exact[1:]), attn_mask=mask, scale=4.0
    ).transpose(1, 2)
    ours = SmallAttention.apply(*(one.transpose(1, 2)[None] for one in states), 4.0)[0]
    # With scores rounded to bfloat16 (up to 50 here, so by 0.1) the error is ten times this.
    assert (ours.double() - expected).abs().mean() < 0.003


@pytest.mark.parametrize("few", [2, 128])
def test_the_scale_is_the_widths_root_unless_the_model_says_another(few, monkeypatch):
    monkeypatch.setattr(rft.learn.attention, "_FEW", few)
    row = _row([(5, [3, 4])])
    plain, scaled = (
        tree_attention(_Layer(), *_states(12), None, trees=trees_of(row), **told)[0]
        for told in ({}, {"scaling": WIDTH**-0.5})
    )
    torch.testing.assert_close(plain, scaled)


@pytest.mark.parametrize("strength", [-400.0, 400.0])
def test_scores_far_from_zero_overflow_neither_within_nor_before_a_branch(strength):
    # All of a token's weight on the prompt, or none of it.
    row = _row([(4, [3, 2])])
    query, key, value = _states(9)
    with torch.no_grad():
        query.fill_(1.0)
        key.normal_(std=0.1)
        key[:, :, :4] += strength / WIDTH
    expected = _dense([query, key, value], row)
    output, _ = tree_attention(_Layer(), query, key, value, None, trees=trees_of(row), scaling=0.3)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)
    for found in torch.autograd.grad(output.sum(), (query, key, value)):
        assert found.isfinite().all()

"""Attention tree by tree. A token never pays for a pair it may not see.

One dense mask over a row of T tokens costs T^2. Here a prompt attends to itself once, and its n branches
are a batch of n queries over (prompt, own branch): for a tree of a prompt of P and branches of L tokens that
is P^2 + n L (P + L) pairs instead of (P + n L)^2. Registered with transformers under `TREES`; forwards that
name no trees (evaluation, generation, a reference) go straight to torch's scaled dot product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rft.learn.packing import MicroBatch
from rft.learn.small_attention import SmallAttention

TREES = "rft_trees"

_FEW = 128
"""Up to so many query tokens: products are twice as fast as torch's flash kernel at 64, slower at 200."""


@dataclass(frozen=True)
class Tree:
    """How a tree is cut. Axes: n branches, padded to the longest, of L tokens; S branch tokens in all."""

    prompt_length: int
    branch_tokens: int
    branches: int = 0
    """0: a single branch, which simply goes on where the prompt ended: plain causal attention over both."""
    mask_LK: Tensor | None = None
    """bool: which keys, those of the prompt first, a branch's token sees; the same for every branch."""
    padded_nL: Tensor | None = None
    """Which of the S tokens stands at each place of the padded branches; None when all are as long."""
    kept_S: Tensor | None = None
    """Where each of the S tokens stands in the padded branches."""


def trees_of(micro_batch: MicroBatch) -> list[Tree]:
    """The trees of a row, from left to right."""
    trees: list[Tree] = []
    start = 0
    for length in torch.bincount(micro_batch.tree_T).tolist():
        prompt_length, *lengths = torch.bincount(micro_batch.branch_T[start : start + length]).tolist()
        trees.append(_tree(prompt_length, [one for one in lengths if one], micro_batch.tree_T.device))
        start += length
    return trees


def _tree(prompt_length: int, lengths_n: list[int], device: torch.device) -> Tree:
    total = sum(lengths_n)
    if len(lengths_n) < 2:
        return Tree(prompt_length, total)
    longest = max(lengths_n)
    mask_LK = torch.ones(longest, prompt_length + longest, dtype=torch.bool, device=device).tril(
        prompt_length
    )
    padded_nL = kept_S = None
    if min(lengths_n) < longest:
        # A branch's padding repeats its first token: real tokens come before it, so none of them sees it.
        starts_n = torch.tensor(lengths_n).cumsum(0) - torch.tensor(lengths_n)
        place_L = torch.arange(longest)
        real_nL = place_L < torch.tensor(lengths_n)[:, None]
        padded_nL = (starts_n[:, None] + place_L * real_nL).flatten().to(device)
        kept_S = real_nL.flatten().nonzero()[:, 0].to(device)
    return Tree(prompt_length, total, len(lengths_n), mask_LK, padded_nL, kept_S)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: list[Tree] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query, key, value [1, heads, T, D] to [1, T, heads, D]."""
    if trees is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    lengths: list[int] = []
    for tree in trees:
        lengths += (
            [tree.prompt_length, tree.branch_tokens]
            if tree.branches
            else [tree.prompt_length + tree.branch_tokens]
        )
    # Split, not sliced: the gradient of a split is one concatenation, that of n slices is n tensors of zeros.
    segments = zip(*(states[0].transpose(0, 1).split(lengths) for states in (query, key, value)), strict=True)
    parts: list[Tensor] = []
    for tree in trees:
        prompt = next(segments)
        parts.append(_attend(module, [states[None] for states in prompt], None, None, kwargs))
        if tree.branches:
            branches = [_padded(states, tree) for states in next(segments)]
            rows = _attend(module, branches, tree.mask_LK, prompt[1:], kwargs)
            parts.append(rows if tree.kept_S is None else rows[tree.kept_S])
    return torch.cat(parts)[None], None


def _attend(
    module: nn.Module,
    states: list[Tensor],
    mask_LK: Tensor | None,
    prefix: tuple[Tensor, ...] | None,
    options: dict[str, Any],
) -> Tensor:
    """Query, key and value, [n, tokens, heads, D] each, to [n * tokens, heads, D].

    `mask_LK` None is causal; `prefix` holds keys and values [P, heads, D] that all n see first.
    """
    query, key, value = states
    length = query.shape[1]
    few = query.device.type == "cpu" and length <= _FEW
    if few and not options.get("dropout") and options.get("position_bias") is None:
        if mask_LK is None:
            mask_LK = torch.ones(length, length, dtype=torch.bool).tril()
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        attended: Tensor = SmallAttention.apply(query, key, value, mask_LK, scale, *(prefix or ()))
        return attended.flatten(0, 1)
    if prefix is not None:
        key, value = (
            torch.cat([first.expand(query.shape[0], -1, -1, -1), own], dim=1)
            for first, own in zip(prefix, (key, value), strict=True)
        )
    heads_first = [one.transpose(1, 2) for one in (query, key, value)]
    mask = None if mask_LK is None else mask_LK[None, None]
    return sdpa_attention_forward(module, *heads_first, mask, **options)[0].flatten(0, 1)


def _padded(states_SHD: Tensor, tree: Tree) -> Tensor:
    """[S, heads, D] to [n, L, heads, D]."""
    if tree.padded_nL is not None:
        states_SHD = states_SHD.index_select(0, tree.padded_nL)
    return states_SHD.unflatten(0, (tree.branches, -1))


AttentionInterface.register(TREES, tree_attention)
AttentionMaskInterface.register(TREES, sdpa_mask)

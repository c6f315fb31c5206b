"""Attention tree by tree. A row of many trees never pays for pairs of tokens in different trees.

One dense mask over a row of T tokens costs T^2 although a token sees only its own tree. Registered with
transformers under `TREES`, this attention runs torch's scaled dot product once per tree. It is sdpa in
every other respect: forwards that name no trees (evaluation, generation, a reference) go straight there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rft.learn.packing import MicroBatch, attention_mask

TREES = "rft_trees"


class TreeSpan(NamedTuple):
    """Where a tree lies in its row, and who sees whom in it."""

    start: int
    stop: int
    mask_LL: Tensor | None
    """bool [1, 1, L, L]; None is plain causal, for a tree of one branch."""


def tree_spans(micro_batch: MicroBatch) -> list[TreeSpan]:
    """The trees of a row, from left to right."""
    mask_TT = attention_mask(micro_batch)
    spans: list[TreeSpan] = []
    start = 0
    for length in torch.bincount(micro_batch.tree_T).tolist():
        stop = start + length
        plain = int(micro_batch.branch_T[start:stop].max()) <= 1
        spans.append(TreeSpan(start, stop, None if plain else mask_TT[None, None, start:stop, start:stop]))
        start = stop
    return spans


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    trees: list[TreeSpan] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query, key, value [1, heads, T, D] to [1, T, heads, D]."""
    if trees is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts = [
        sdpa_attention_forward(
            module,
            query[:, :, tree.start : tree.stop],
            key[:, :, tree.start : tree.stop],
            value[:, :, tree.start : tree.stop],
            tree.mask_LL,
            **kwargs,
        )[0]
        for tree in trees
    ]
    return torch.cat(parts, dim=1), None


AttentionInterface.register(TREES, tree_attention)
AttentionMaskInterface.register(TREES, sdpa_mask)

"""Scaled dot product attention for few tokens, as a handful of batched matrix products.

torch's flash kernels for a CPU are made for long sequences: in bfloat16, at the lengths of a prompt and its
short answers, they take twice as long as these products (in float32 about as long). Scores are float32
whatever the model's dtype, as in the flash kernels; nothing of their size survives the forward, the backward
computes them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SmallAttention(torch.autograd.Function):
    """(query_nLHD, key_nSGD, value_nSGD, mask_LK, scale, prefix) -> [n, L, H, D].

    H query heads share G key heads. `prefix`: keys and values [P, G, D] that come before those of each of the
    n sequences, so that K = P + S.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask_LK: Tensor,
        scale: float,
        prefix_key: Tensor | None = None,
        prefix_value: Tensor | None = None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask_LK, prefix_key, prefix_value)
        ctx.scale = scale
        key_nGKD, value_nGKD = _joined(prefix_key, key), _joined(prefix_value, value)
        weights_nGRK = _weights(_by_key_head(query, key.shape[2]), key_nGKD, mask_LK, scale)
        return _by_token(weights_nGRK.to(value.dtype) @ value_nGKD, query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask_LK, prefix_key, prefix_value = ctx.saved_tensors
        key_nGKD, value_nGKD = _joined(prefix_key, key), _joined(prefix_value, value)
        query_nGRD, grad_nGRD = (_by_key_head(one, key.shape[2]) for one in (query, gradients[0]))
        weights_nGRK = _weights(query_nGRD, key_nGKD, mask_LK, ctx.scale)
        value_grad_nGKD = weights_nGRK.to(value.dtype).transpose(-1, -2) @ grad_nGRD
        weights_grad_nGRK = (grad_nGRD @ value_nGKD.transpose(-1, -2)).float()
        scores_grad_nGRK = torch._softmax_backward_data(weights_grad_nGRK, weights_nGRK, -1, torch.float32)
        scores_grad_nGRK = scores_grad_nGRK.mul_(ctx.scale).to(query.dtype)
        key_grad_nGKD = scores_grad_nGRK.transpose(-1, -2) @ query_nGRD
        prefix_key_grad, key_grad = _parted(prefix_key, key_grad_nGKD)
        prefix_value_grad, value_grad = _parted(prefix_value, value_grad_nGKD)
        query_grad = _by_token(scores_grad_nGRK @ key_nGKD, query.shape)
        return query_grad, key_grad, value_grad, None, None, prefix_key_grad, prefix_value_grad


def _joined(prefix_PGD: Tensor | None, states_nSGD: Tensor) -> Tensor:
    """[n, G, P + S, D]"""
    if prefix_PGD is None:
        return states_nSGD.transpose(1, 2)
    shared = prefix_PGD.transpose(0, 1).expand(states_nSGD.shape[0], -1, -1, -1)
    return torch.cat([shared, states_nSGD.transpose(1, 2)], dim=2)


def _parted(prefix_PGD: Tensor | None, grad_nGKD: Tensor) -> tuple[Tensor | None, Tensor]:
    """Gradients of the two that `_joined` has joined."""
    if prefix_PGD is None:
        return None, grad_nGKD.transpose(1, 2)
    length = prefix_PGD.shape[0]
    return grad_nGKD[:, :, :length].sum(0).transpose(0, 1), grad_nGKD[:, :, length:].transpose(1, 2)


def _by_key_head(states_nLHD: Tensor, heads: int) -> Tensor:
    """[n, L, H, D] to [n, G, R, D]: rows R of a key head are the tokens of the query heads that share it."""
    return states_nLHD.unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)


def _by_token(states_nGRD: Tensor, shape: torch.Size) -> Tensor:
    """The reverse."""
    n, tokens, heads, width = shape
    key_heads = states_nGRD.shape[1]
    by_head = states_nGRD.view(n, key_heads, heads // key_heads, tokens, width)
    return by_head.permute(0, 3, 1, 2, 4).reshape(n, tokens, heads, width)


def _weights(query_nGRD: Tensor, key_nGKD: Tensor, mask_LK: Tensor, scale: float) -> Tensor:
    """Attention weights, float32 [n, G, R, K]."""
    scores_nGRK = (query_nGRD.float() * scale) @ key_nGKD.float().transpose(-1, -2)
    repeats = scores_nGRK.shape[2] // mask_LK.shape[0]
    scores_nGRK.unflatten(2, (repeats, -1)).masked_fill_(~mask_LK, float("-inf"))
    return torch.softmax(scores_nGRK, dim=-1)

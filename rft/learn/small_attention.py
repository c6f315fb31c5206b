"""Scaled dot product attention for few tokens, as a handful of batched matrix products.

torch's flash kernels for a CPU are made for long sequences: in bfloat16, at the lengths of a prompt and its
short answers, they take about twice as long as these products. All branches of a tree meet its prompt in
one product, without a copy of the prompt's keys for each of them. Scores are float32 whatever the model's
dtype, as in the flash kernels; nothing of their size survives the forward, the backward computes them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SmallAttention(torch.autograd.Function):
    """Causal attention within sequences of L tokens, each after a prefix where there is one.

    (query_tnLHD, key_tnLGD, value_tnLGD, scale, prefix_key_tPGD, prefix_value_tPGD, hidden_tP) to
    [t, n, L, H, D].

    H query heads share G key heads. The n sequences of a tree t share its prefix of P tokens; nobody sees
    those that are True in `hidden_tP`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        prefix_key: Tensor | None = None,
        prefix_value: Tensor | None = None,
        hidden_tP: Tensor | None = None,
    ) -> Tensor:
        query_tGnXD, key_tGnLD = _by_key_head(query, key.shape[3]), _heads_first(key)
        own_tGnXL, prefix_tGYP = _scores(query_tGnXD, key_tGnLD, prefix_key, hidden_tP, scale)
        highest_tGnX1 = own_tGnXL.amax(-1, keepdim=True)
        if prefix_tGYP is not None:
            highest_tGnX1 = torch.maximum(
                highest_tGnX1, prefix_tGYP.amax(-1, keepdim=True).view_as(highest_tGnX1)
            )
        total_tGnX1 = own_tGnXL.sub_(highest_tGnX1).exp_().sum(-1, keepdim=True)
        if prefix_tGYP is not None:
            prefix_tGYP.sub_(highest_tGnX1.flatten(2, 3)).exp_()
            total_tGnX1 += prefix_tGYP.sum(-1, keepdim=True).view_as(total_tGnX1)
        out_tGnXD = own_tGnXL.div_(total_tGnX1).to(value.dtype) @ _heads_first(value)
        if prefix_tGYP is not None:
            assert prefix_value is not None
            weights_tGYP = prefix_tGYP.div_(total_tGnX1.flatten(2, 3)).to(value.dtype)
            out_tGnXD += (weights_tGYP @ _heads_first(prefix_value)).view_as(out_tGnXD)
        log_total_tGnX1 = total_tGnX1.log_().add_(highest_tGnX1)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, hidden_tP, log_total_tGnX1)
        ctx.scale = scale
        return _by_token(out_tGnXD, query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, prefix_key, prefix_value, hidden_tP, log_total_tGnX1 = ctx.saved_tensors
        dtype, key_heads = value.dtype, key.shape[3]
        query_tGnXD, key_tGnLD = _by_key_head(query, key_heads), _heads_first(key)
        out_grad_tGnXD = _by_key_head(gradients[0], key_heads)
        own_tGnXL, prefix_tGYP = _scores(query_tGnXD, key_tGnLD, prefix_key, hidden_tP, ctx.scale)
        own_tGnXL.sub_(log_total_tGnX1).exp_()
        value_grad = _heads_last(own_tGnXL.to(dtype).mT @ out_grad_tGnXD)
        own_grad_tGnXL = (out_grad_tGnXD @ _heads_first(value).mT).float()
        shift_tGnX1 = torch.linalg.vecdot(own_tGnXL, own_grad_tGnXL).unsqueeze(-1)
        prefix_key_grad = prefix_value_grad = None
        if prefix_tGYP is not None:
            query_tGYD, out_grad_tGYD = query_tGnXD.flatten(2, 3), out_grad_tGnXD.flatten(2, 3)
            prefix_tGYP.sub_(log_total_tGnX1.flatten(2, 3)).exp_()
            prefix_value_grad = _heads_last(prefix_tGYP.to(dtype).mT @ out_grad_tGYD)
            prefix_grad_tGYP = (out_grad_tGYD @ _heads_first(prefix_value).mT).float()
            shift_tGnX1 += torch.linalg.vecdot(prefix_tGYP, prefix_grad_tGYP).view_as(shift_tGnX1)
            scores_grad = prefix_grad_tGYP.sub_(shift_tGnX1.flatten(2, 3)).mul_(prefix_tGYP).mul_(ctx.scale)
            scores_grad = scores_grad.to(dtype)
            prefix_key_grad = _heads_last(scores_grad.mT @ query_tGYD)
            query_grad_tGYD = scores_grad @ _heads_first(prefix_key)
        scores_grad = own_grad_tGnXL.sub_(shift_tGnX1).mul_(own_tGnXL).mul_(ctx.scale).to(dtype)
        query_grad_tGnXD = scores_grad @ key_tGnLD
        if prefix_tGYP is not None:
            query_grad_tGnXD += query_grad_tGYD.view_as(query_grad_tGnXD)
        key_grad = _heads_last(scores_grad.mT @ query_tGnXD)
        query_grad = _by_token(query_grad_tGnXD, query.shape)
        return query_grad, key_grad, value_grad, None, prefix_key_grad, prefix_value_grad, None


def _by_key_head(states_tnLHD: Tensor, key_heads: int) -> Tensor:
    """[t, G, n, X, D]: X are the L tokens of each of the query heads that share a key head."""
    return states_tnLHD.unflatten(3, (key_heads, -1)).permute(0, 3, 1, 4, 2, 5).flatten(3, 4)


def _by_token(states_tGnXD: Tensor, shape: torch.Size) -> Tensor:
    """The reverse."""
    by_head = states_tGnXD.unflatten(3, (-1, shape[2]))
    return by_head.permute(0, 2, 4, 1, 3, 5).reshape(shape)


def _heads_first(states: Tensor) -> Tensor:
    """[t, ..., G, D] to [t, G, ..., D]."""
    return states.movedim(-2, 1)


def _heads_last(states: Tensor) -> Tensor:
    """The reverse."""
    return states.movedim(1, -2)


def _scores(
    query_tGnXD: Tensor,
    key_tGnLD: Tensor,
    prefix_key_tPGD: Tensor | None,
    hidden_tP: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor | None]:
    """Masked scores within the sequences and against the prefix; Y are the X of all n sequences. float32."""
    scaled_tGnXD = query_tGnXD.float() * scale
    own_tGnXL = scaled_tGnXD @ key_tGnLD.float().mT
    length = own_tGnXL.shape[-1]
    later_LL = torch.ones(length, length, dtype=torch.bool, device=own_tGnXL.device).triu(1)
    own_tGnXL.unflatten(3, (-1, length)).masked_fill_(later_LL, float("-inf"))
    if prefix_key_tPGD is None:
        return own_tGnXL, None
    prefix_tGYP = scaled_tGnXD.flatten(2, 3) @ _heads_first(prefix_key_tPGD).float().mT
    if hidden_tP is not None:
        prefix_tGYP.masked_fill_(hidden_tP[:, None, None], float("-inf"))
    return own_tGnXL, prefix_tGYP

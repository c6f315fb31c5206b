"""Log-probabilities of the policy's tokens: one pass through the trunk, logits only where needed, in chunks.

The logits of a row, [T, vocabulary], would be its largest tensor by far. Here the hidden states that
predict a policy token are gathered, and the head is applied to `chunk` of them at a time. Nothing of
size [chunk, vocabulary] survives the forward; the backward computes each chunk's logits again:

    d logp_i / d logits_iv = [v is the target] - p_iv        with p_i = softmax(logits_i / temperature),
    d H_i / d logits_iv    = -p_iv (log p_iv + H_i)          both divided by the temperature

The second is there for an entropy bonus. It needs no further pass, and nothing is computed for it when
nobody asks.

Log-probabilities are float32 whatever the model's dtype. A model whose logits are not simply
`lm_head(hidden)` (a soft cap, a scale, an adapter on the head) goes through its own forward instead,
with logits at the needed positions only; `rft.learn.probe` finds out which models those are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from rft.learn.attention import TREES, trees_of
from rft.learn.packing import MicroBatch, attention_mask


def policy_logprobs(
    model: nn.Module,
    micro_batch: MicroBatch,
    *,
    temperature: float,
    chunk: int,
    chunked_head: bool = True,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of the distribution each policy token was drawn from, in nats.

    Args:
        model: a causal language model of transformers, or peft's wrapper of one.
        micro_batch: one row, on the model's device.
        temperature: divides the logits, as the sampler did.
        chunk: positions whose logits exist at one time; memory only, not mathematics.
        chunked_head: False for models that do more than a linear layer after their trunk.
        entropy_gradient: whether the entropy is differentiable too, or for the metrics only.

    Returns:
        `policy_logprobs_M`, differentiable, and `entropy_M`.
    """
    base = unwrapped(model)
    inputs = forward_inputs(base, micro_batch)
    if not chunked_head:
        positions_U, place_M = micro_batch.source_M.unique(return_inverse=True)
        logits_UV = base(**inputs, logits_to_keep=positions_U).logits[0]
        return _logprobs_of(logits_UV, place_M, micro_batch.target_ids_M, temperature, entropy_gradient)
    hidden_TD = base.get_decoder()(**inputs).last_hidden_state[0]
    head = base.get_output_embeddings()
    # Under autocast a Function sees the raw dtypes, so the casts stand here, where autograd follows them.
    device = hidden_TD.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else head.weight.dtype
    hidden_MD = hidden_TD[micro_batch.source_M].to(dtype)
    result: tuple[Tensor, Tensor] = _ChunkedLogprobs.apply(
        hidden_MD, head.weight.to(dtype), micro_batch.target_ids_M, temperature, chunk, entropy_gradient
    )
    return result


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, adapters active, without peft's wrapper around it."""
    get_base_model: Any = getattr(model, "get_base_model", None)
    base: Any = model if get_base_model is None else get_base_model()
    return base


def forward_inputs(base: PreTrainedModel, micro_batch: MicroBatch) -> dict[str, Any]:
    """What the model's forward takes for a row, as a batch of one."""
    inputs: dict[str, Any] = {
        "input_ids": micro_batch.token_ids_T[None],
        "position_ids": micro_batch.position_ids_T[None],
        "use_cache": False,
    }
    if micro_batch.packing != "single" and base.config._attn_implementation == TREES:
        inputs["trees"] = trees_of(micro_batch)
        # A 4-D mask is handed through as it is: this one keeps transformers from building its own.
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=micro_batch.tree_T.device)
    elif micro_batch.packing == "shared":
        mask_TT = attention_mask(micro_batch)
        if base.config._attn_implementation == "eager":
            # Eager attention adds its mask to the scores.
            zero_TT = torch.zeros(mask_TT.shape, dtype=base.dtype, device=mask_TT.device)
            mask_TT = zero_TT.masked_fill_(~mask_TT, torch.finfo(base.dtype).min)
        inputs["attention_mask"] = mask_TT[None, None]
    # Otherwise no mask at all: transformers tells packed sequences apart by their positions.
    return inputs


def _logprobs_of(
    logits_UV: Tensor, place_M: Tensor, target_ids_M: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    logprobs_UV = torch.log_softmax(logits_UV.float() / temperature, dim=-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        # Where a logit is minus infinity, 0 times that must be 0, in the gradient too.
        finite_UV = logprobs_UV.clamp(min=torch.finfo(torch.float32).min)
        entropy_U = -(logprobs_UV.exp() * finite_UV).sum(-1)
    return logprobs_UV[place_M, target_ids_M], entropy_U[place_M]


class _ChunkedLogprobs(torch.autograd.Function):
    """(hidden_MD, weight_VD, target_ids_M, ...) -> (logprobs_M, entropy_M), both float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        target_ids_M: Tensor,
        temperature: float,
        chunk: int,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs_M = hidden_MD.new_empty(hidden_MD.shape[0], dtype=torch.float32)
        entropy_M = torch.empty_like(logprobs_M)
        for start in range(0, hidden_MD.shape[0], chunk):
            part = slice(start, start + chunk)
            logits_CV = _logits(hidden_MD[part], weight_VD, temperature).float()
            logprobs_CV = torch.log_softmax(logits_CV, dim=-1)
            logprobs_M[part] = logprobs_CV.gather(-1, target_ids_M[part, None])[:, 0]
            entropy_M[part] = torch.linalg.vecdot(torch.exp(logprobs_CV, out=logits_CV), logprobs_CV).neg_()
        ctx.save_for_backward(hidden_MD, weight_VD, target_ids_M, logprobs_M, entropy_M)
        ctx.temperature, ctx.chunk, ctx.entropy_gradient = temperature, chunk, entropy_gradient
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_M)
        return logprobs_M, entropy_M

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, target_ids_M, logprobs_M, entropy_M = ctx.saved_tensors
        upstream_M1 = (gradients[0] / ctx.temperature)[:, None]
        scaled_MD = (hidden_MD * upstream_M1).to(hidden_MD.dtype)
        hidden_grad_MD = torch.empty_like(hidden_MD)
        weight_grad_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden_MD.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits_CV = _logits(hidden_MD[part], weight_VD, ctx.temperature)
            if ctx.entropy_gradient:
                logits_grad_CV = _entropy_gradient(logits_CV, entropy_M[part])
                logits_grad_CV *= (gradients[1][part] / ctx.temperature)[:, None]
            # In the weights' own dtype, but the target's 1 - p in float32: it is small where p is nearly 1.
            probs_CV = torch.softmax(logits_CV, dim=-1)
            missing_C1 = torch.expm1(logprobs_M[part, None])
            errors_CV = probs_CV.scatter_(-1, target_ids_M[part, None], missing_C1.to(probs_CV.dtype))
            errors_CV = errors_CV.to(weight_VD.dtype)
            hidden_grad_MD[part] = (errors_CV @ weight_VD) * -upstream_M1[part]
            if weight_grad_VD is not None:
                weight_grad_VD.addmm_(errors_CV.T, scaled_MD[part], alpha=-1)
            if ctx.entropy_gradient:
                logits_grad_CV = logits_grad_CV.to(weight_VD.dtype)
                hidden_grad_MD[part] += logits_grad_CV @ weight_VD
                if weight_grad_VD is not None:
                    weight_grad_VD.addmm_(logits_grad_CV.T, hidden_MD[part])
        return hidden_grad_MD, weight_grad_VD, None, None, None, None


def _entropy_gradient(logits_CV: Tensor, entropy_C: Tensor) -> Tensor:
    """-p (log p + H), float32."""
    logprobs_CV = torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
    return logprobs_CV.exp().neg_().mul_(logprobs_CV.add_(entropy_C[:, None]))


def _logits(hidden_CD: Tensor, weight_VD: Tensor, temperature: float) -> Tensor:
    logits_CV = F.linear(hidden_CD, weight_VD)
    return logits_CV if temperature == 1.0 else logits_CV.float().div_(temperature)

"""Matrix products on weights that stay ordinary row-major tensors, about as fast as vLLM's packed ones.

oneDNN wants the operand that is multiplied from the right turned over, and does that anew in each call
when it is an unpacked weight. With the weight on the left, (W x^T)^T, nothing large is turned, but the
result comes out turned. A feed-forward layer can keep it so from its first product to its second, which
saves most of what packing gains; a product by itself is turned back, which pays for few rows only.
The limits below were measured on one machine (benchmarks/README.md, plain against packed).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

_FEW_ROWS = 16
"""Up to so many bfloat16 rows, turning a product's result back costs less than turning the weight."""
_HEAD_ROWS, _PIECE = 96, 4096
"""The same for the vocabulary, which is turned back so many columns at a time."""
_TURNED_ROWS = {torch.bfloat16: 128, torch.float32: 16}
"""Up to so many rows a feed-forward layer's second product has the weight on the left as well."""
_LEAST_ROWS = {torch.bfloat16: 2, torch.float32: 8}
"""Fewer rows than this are not worth turning."""


def plain_linear(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """x W^T + b on an unpacked row-major weight; returns [M, N], row-major as attention kernels demand it."""
    if x_MK.dim() == 2 and x_MK.dtype == torch.bfloat16 and 1 < x_MK.shape[0] <= _FEW_ROWS:
        out_MN = _turned_back(torch.mm(weight_NK, x_MK.t()))
        return out_MN if bias_N is None else out_MN.add_(bias_N)
    return F.linear(x_MK, weight_NK, bias_N)


def plain_head(x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    """The vocabulary's logits, [M, V]: for few bfloat16 rows in float32, as the sampler wants them anyway.

    Turned back in pieces that stay in the cache.
    """
    if x_MD.dtype != torch.bfloat16 or not 1 < x_MD.shape[0] <= _HEAD_ROWS or bias_V is not None:
        return plain_linear(x_MD, weight_VD, bias_V)
    turned_VM = torch.mm(weight_VD, x_MD.t())
    logits_MV = x_MD.new_empty(x_MD.shape[0], weight_VD.shape[0], dtype=torch.float32)
    for piece_MC, turned_CM in zip(logits_MV.split(_PIECE, 1), turned_VM.split(_PIECE), strict=True):
        piece_MC.copy_(turned_CM.t())
    return logits_MV


def turn_feed_forward(model: nn.Module) -> int:
    """Lets every feed-forward layer that allows it keep its inner values turned; returns how many do.

    Those are layers of two products without biases and SiLU-and-multiply between them, whose output on
    random numbers is the same as before. With an adapter on it, a layer goes its old way.
    """
    return sum(_turn(module) for module in model.modules())


def _turn(layer: Any) -> bool:
    if not (_is_product(layer, "gate_up_proj") and _is_product(layer, "down_proj")):
        return False
    if type(getattr(layer, "act_fn", None)) is not SiluAndMul:
        return False
    weight_ID = layer.gate_up_proj.weight
    if weight_ID.device.type != "cpu" or weight_ID.dtype not in _TURNED_ROWS:
        return False
    generator = torch.Generator().manual_seed(0)
    probe_MD = torch.randn(9, weight_ID.shape[1], generator=generator).to(weight_ID.dtype)
    with torch.no_grad():
        expected_MD, found_MD = layer(probe_MD), _feed_forward(layer, probe_MD)
    close = 16 * torch.finfo(weight_ID.dtype).eps * expected_MD.abs().max()
    if expected_MD.shape != found_MD.shape or (expected_MD - found_MD).abs().max() > close:
        return False
    layer.forward = MethodType(_forward, layer)
    return True


def _forward(layer: Any, x: Tensor) -> Tensor:
    # An adapter takes the products' places, and adds to what comes out between them.
    plain = _is_product(layer, "gate_up_proj") and _is_product(layer, "down_proj")
    if plain and x.dim() == 2 and x.shape[0] >= _LEAST_ROWS[x.dtype]:
        return _feed_forward(layer, x)
    result: Tensor = type(layer).forward(layer, x)
    return result


def _is_product(layer: Any, name: str) -> bool:
    product = getattr(layer, name, None)
    if not isinstance(product, LinearBase) or not isinstance(product.quant_method, UnquantizedLinearMethod):
        return False
    return product.bias is None and product.tp_size == 1


def _feed_forward(layer: Any, x_MD: Tensor) -> Tensor:
    gate_IM, up_IM = torch.mm(layer.gate_up_proj.weight, x_MD.t()).chunk(2)
    hidden_IM = F.silu(gate_IM, inplace=True).mul_(up_IM)
    if x_MD.shape[0] <= _TURNED_ROWS[x_MD.dtype]:
        return _turned_back(torch.mm(layer.down_proj.weight, hidden_IM))
    return F.linear(hidden_IM.t(), layer.down_proj.weight)


def _turned_back(result_NM: Tensor) -> Tensor:
    out_MN = result_NM.new_empty(result_NM.shape[1], result_NM.shape[0])
    return out_MN.copy_(result_NM.t())  # in parallel, which `contiguous` is not

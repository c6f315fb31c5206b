"""RMSNorm on a CPU by vLLM's own kernels, which it has compiled for it but picks on a GPU only.

Its default there is a chain of eight torch operations over small tensors: a tenth of a decoding step.
The kernels are offered under a name of our own and asked for by `ir_op_priority`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm import ir

_PROVIDER = "rft_cpu"
PRIORITY = {"rms_norm": [_PROVIDER], "fused_add_rms_norm": [_PROVIDER]}
"""For vLLM's argument `ir_op_priority`; what a kernel does not take goes on to vLLM's default."""


def install() -> None:
    """Makes the kernels known to vLLM; again and again if need be."""
    if _PROVIDER not in ir.ops.rms_norm.impls:
        ir.ops.rms_norm.register_impl(_PROVIDER, supports_args=_takes)(_rms_norm)
        added = ir.ops.fused_add_rms_norm
        added.register_impl(_PROVIDER, supports_args=_takes_added, inplace=True)(_fused_add_rms_norm)


def _takes(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    fits = weight is not None and weight.dtype == x.dtype and variance_size is None
    return fits and x.device.type == "cpu" and x.is_contiguous()


def _takes_added(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return _takes(x, weight, epsilon, variance_size) and x_residual.is_contiguous()


def _rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    out = torch.empty_like(x)
    torch.ops._C.rms_norm(out, x, weight, epsilon)
    return out


def _fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual

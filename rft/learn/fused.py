"""Norms and gated activations with fewer passes over memory and less kept for the backward.

As transformers writes them, a norm keeps two float32 copies of its input, and a gated MLP two products beside
its two operands. Here each keeps its operands and computes the rest again; with `recompute_mlp` a gated MLP
keeps its input alone, which costs two of its three products once more. A module is replaced only when that
gives the same output and the same gradients as before on random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Share of the largest value. Another formula errs by far more.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}  # norms are in float32 even then
_TOLERANCE_HALF = 0.02


def fuse(model: nn.Module, *, recompute_mlp: bool) -> dict[str, int]:
    """Replaces norms and gated MLPs of `model` in place, where that changes nothing but speed and memory.

    Returns how many modules of each class were replaced. Weights, their names and hooks stay as they are.
    """
    was_training = model.training
    model.eval()  # an adapter's dropout would make every comparison fail
    replaced: dict[str, int] = {}
    verdicts: dict[type, type | None] = {}
    for module in model.modules():
        kind = type(module)
        if kind not in verdicts:
            verdicts[kind] = _twin(module, recompute_mlp)
        twin = verdicts[kind]
        if twin is not None:
            module.__class__ = twin
            replaced[kind.__name__] = replaced.get(kind.__name__, 0) + 1
    model.train(was_training)
    return replaced


def _twin(module: Any, recompute_mlp: bool) -> type | None:
    """A subclass of the module's class with a faster forward, or None when there is none that agrees."""
    forward: Callable[..., Tensor]
    if "RMSNorm" in type(module).__name__ and _eps(module) is not None:
        forward, width = _norm_forward, module.weight.numel()
    elif all(isinstance(getattr(module, name, None), nn.Module) for name in _MLP):
        forward = _mlp_again if recompute_mlp else _mlp_forward
        width = getattr(module.gate_proj, "in_features", 0)
    else:
        return None
    twin = type(type(module).__name__, (type(module),), {"forward": forward})
    twin.__module__ = type(module).__module__
    return twin if width and _agree(module, twin, width) else None


def _agree(module: nn.Module, twin: type, width: int) -> bool:
    parameter = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    shape = (1, 5, width)
    sample, upstream = (torch.randn(shape, generator=generator).to(parameter) for _ in range(2))
    kind = type(module)
    found = [_output_and_gradients(module, sample, upstream)]
    try:
        module.__class__ = twin
        found.append(_output_and_gradients(module, sample, upstream))
    except (AttributeError, RuntimeError, TypeError):
        return False
    finally:
        module.__class__ = kind
    tolerance = _TOLERANCE.get(parameter.dtype, _TOLERANCE_HALF)
    return all(
        (ours - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1e-3)
        for theirs, ours in zip(*found, strict=True)
    )


@torch.enable_grad()
def _output_and_gradients(module: nn.Module, sample: Tensor, upstream: Tensor) -> list[Tensor]:
    sample = sample.detach().requires_grad_()
    output = module(sample)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [output.detach(), *torch.autograd.grad(output, [sample, *trained], upstream)]


# --- root mean square norm (Zhang and Sennrich 2019) ----------------------------------------------


def _eps(module: Any) -> float | None:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = getattr(module, "weight", None)
    return eps if isinstance(eps, float) and isinstance(weight, Tensor) and weight.dim() == 1 else None


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    result: Tensor = _RMSNorm.apply(hidden_states, self.weight, _eps(self))
    return result


class _RMSNorm(torch.autograd.Function):
    """y = w x / sqrt(mean(x^2) + eps), in float32 inside; keeps x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight_D)
        ctx.eps = eps
        normed = _copy(x)
        normed.mul_(_inverse_rms(normed, eps))
        return normed.mul_(weight_D.to(normed.dtype)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight_D = ctx.saved_tensors
        normed, grad = _copy(x), _copy(gradients[0])
        inverse = _inverse_rms(normed, ctx.eps)
        normed.mul_(inverse)
        upstream = grad * normed  # of the weight, token by token
        weight_grad_D = None
        if ctx.needs_input_grad[1]:
            weight_grad_D = upstream.flatten(0, -2).sum(0).to(weight_D.dtype)
        # d/dx: inverse * (w dy - normed * mean(w dy normed))
        weight_D = weight_D.to(grad.dtype)
        projection = (upstream @ weight_D).unsqueeze(-1).div_(x.shape[-1])
        grad.mul_(weight_D).addcmul_(normed, projection, value=-1).mul_(inverse)
        return grad.to(x.dtype), weight_grad_D, None


def _copy(x: Tensor) -> Tensor:
    """float32 at least. A product of two dtypes takes twice as long as this and a product of one."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


# --- gated activation (Shazeer 2020) --------------------------------------------------------------

_MLP = ("gate_proj", "up_proj", "down_proj", "act_fn")


def _mlp_forward(self: Any, x: Tensor) -> Tensor:
    result: Tensor = self.down_proj(_SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))
    return result


def _mlp_again(self: Any, x: Tensor) -> Tensor:
    """The same, keeping nothing but x."""
    if not torch.is_grad_enabled():
        return _mlp_forward(self, x)
    result: Tensor = checkpoint(_mlp_forward, self, x, use_reentrant=False)
    return result


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up; keeps gate and up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        up_grad = F.silu(gate).mul_(gradients[0])
        gate_grad = torch.ops.aten.silu_backward(gradients[0] * up, gate)
        return gate_grad, up_grad

"""Which rows of the engine's tensors each of the trainer's parameters is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rft.errors import EngineError


class BindingError(EngineError):
    """This way of publishing does not hold for this model; says why."""


def engine_views(model: nn.Module, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The engine's own tensors, cut to the trainer's names and shapes; nothing is copied.

    vLLM fuses layers that read the same input (q, k, v into qkv_proj; gate, up into gate_up_proj) by
    stacking rows, and pads the vocabulary. Each of the trainer's tensors is a run of rows of one of these.

    Args:
        model: vLLM's module.
        shapes: the trainer's parameters, tied ones once.

    Raises:
        BindingError: a parameter has no counterpart, or another shape.
    """
    theirs = {name.replace(".base_layer.", "."): tensor for name, tensor in model.named_parameters()}
    modules = {name.replace(".base_layer", ""): module for name, module in model.named_modules()}
    fused: Mapping[str, Sequence[str]] = getattr(model, "packed_modules_mapping", {})
    views: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        view: Tensor | None = theirs.get(name)
        if view is None:
            view = _fused_rows(name, fused, theirs, modules)
        if view is None:
            raise BindingError(f"the engine has no tensor for {name}")
        if hasattr(modules.get(name.rpartition(".")[0]), "num_embeddings_padded"):
            view = view[: shape[0]]  # the vocabulary, padded
        if view.shape != shape:
            raise BindingError(f"{name} is {tuple(shape)} here and {tuple(view.shape)} in the engine")
        views[name] = view.detach()
    return views


def _fused_rows(
    name: str,
    fused: Mapping[str, Sequence[str]],
    theirs: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
) -> Tensor | None:
    owner, _, kind = name.rpartition(".")
    parent, _, part = owner.rpartition(".")
    for whole, parts in fused.items():
        module_name = f"{parent}.{whole}" if parent else whole
        if part not in parts or f"{module_name}.{kind}" not in theirs:
            continue
        module: Any = modules[module_name]
        sizes = getattr(getattr(module, "base_layer", module), "output_sizes", None)
        if sizes is None:
            return None
        index = list(parts).index(part)
        start = sum(sizes[:index])
        return theirs[f"{module_name}.{kind}"][start : start + sizes[index]]
    return None

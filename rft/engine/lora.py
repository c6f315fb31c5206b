"""LoRA in the engine on a CPU, adapter by adapter instead of token by token.

vLLM's CPU fallback gathers a copy of the adapter's matrices for every token and multiplies one by one:
with 64 requests it makes decoding over ten times slower. A batch here holds one or two adapters, so the
tokens of each are multiplied together, on the adapter's own memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


class CpuAdapters(PunicaWrapperCPU):
    """y += (x A^T) B^T scale, once for each adapter in the batch."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Called once a step; finds out which tokens belong to which adapter slot."""
        super().update_metadata(*args, **kwargs)
        slots_T = self.token_lora_indices
        present = slots_T.unique().tolist()
        self._tokens_by_slot: list[tuple[int, Tensor | None]] = [
            (slot, None if len(present) == 1 else torch.nonzero(slots_T == slot).squeeze(1))
            for slot in present
            if slot >= 0  # -1: no adapter
        ]

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """Adds the adapters' part to a linear layer's output, in place.

        Args:
            y: output, [T, sum(output_slices)].
            x: input, [T, in].
            lora_a_stacked: for each fused part, [slots, 1, rank, in].
            lora_b_stacked: for each fused part, [slots, 1, out, rank].
        """
        y_TO, x_TI = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, tokens in self._tokens_by_slot:
            mine_TI = x_TI if tokens is None else x_TI[tokens]
            start = 0
            for a_stacked, b_stacked, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                part_TO = F.linear(F.linear(mine_TI, a_stacked[slot, 0]), b_stacked[slot, 0])
                if scale != 1.0:  # vLLM folds an adapter's own scaling into B
                    part_TO *= scale
                part_TO = part_TO[:, :size].to(y.dtype)
                if tokens is None:
                    y_TO[:, start : start + size] += part_TO
                else:
                    y_TO[:, start : start + size].index_add_(0, tokens, part_TO)
                start += size


def install() -> None:
    """Makes vLLM use `CpuAdapters` in this process. It offers no other way of naming one."""
    platform: Any = type(current_platform)
    platform.get_punica_wrapper = classmethod(lambda cls: f"{__name__}.{CpuAdapters.__name__}")

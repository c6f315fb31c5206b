"""Loads vLLM's weights so that they stay ordinary tensors which a trainer can own.

On a CPU vLLM repacks every linear layer into a private oneDNN copy and leaves an empty tensor behind.
The `rft_plain` loader keeps the fused tensors (qkv_proj, gate_up_proj, embeddings) as they are; matrix
products run on them directly. On a GPU vLLM keeps plain tensors anyway, and the loader changes nothing.
"""

from __future__ import annotations

import copy

from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from rft.engine.plain import plain_head, plain_linear, turn_feed_forward

PLAIN = "rft_plain"


@register_model_loader(PLAIN)
class PlainModelLoader(DefaultModelLoader):
    """vLLM's default loader, without the CPU repacking."""

    def __init__(self, load_config: LoadConfig) -> None:
        """The default loader looks at `load_format` again; to it, the files are ordinary ones."""
        load_config = copy.copy(load_config)
        load_config.load_format = "auto"
        super().__init__(load_config)

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Loads, then marks linear layers so that post-processing leaves them alone."""
        super().load_weights(model, model_config)
        for module in model.modules():
            if isinstance(module, LinearBase):
                module._cpu_skip_gemm_dispatch = True

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """Loads and replaces every CPU product, the packed copy of the vocabulary head included."""
        model = super().load_model(vllm_config, model_config, prefix)
        for module in model.modules():
            if hasattr(module, "cpu_linear"):
                module.cpu_linear = plain_head if isinstance(module, VocabParallelEmbedding) else plain_linear
        turn_feed_forward(model)
        return model

"""What generates and serves."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from rft.recipe.schema.section import Section


class EngineSpec(Section):
    """The embedded vLLM engine."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: the model's. float32 weights with a bfloat16 engine are published by copy."""
    publish: Literal["auto", "shared", "copy", "adapter"] = "auto"
    """`shared`: the optimizer writes what the engine reads. `auto` takes the first that proves itself."""
    max_model_len: PositiveInt | None = None
    """Longest prompt plus completion, tokens; computed from the data when unset."""
    max_num_seqs: PositiveInt | None = None
    """Requests decoded together; computed from the rollout when unset."""
    kv_cache_gb: PositiveFloat | None = None
    """Memory for attention keys and values, GB; computed when unset."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.45
    """Share of the GPU for engine weights and cache; the rest is the trainer's. Not used on a CPU."""
    parity_every: NonNegativeInt = 10
    """Compare engine and trainer every so many steps; 0 only at start."""
    parity_tolerance: PositiveFloat | None = None
    """Largest mean |difference of log-probabilities|; by dtype when unset (1e-4 float32, 0.15 bfloat16)."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Any further vLLM engine argument, by vLLM's name."""


class ServeSpec(Section):
    """The OpenAI-compatible endpoint on the training engine."""

    host: str = "127.0.0.1"
    """Address to listen on; loopback unless told."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes a free port and prints it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; no key is asked for when unset."""
    model_name: str | None = None
    """The name clients use; the recipe's name when unset."""
    tool_call_parser: str | None = None
    """vLLM's parser for tool calls; hermes when unset."""
    reasoning_parser: str | None = None
    """vLLM's parser for thinking text, e.g. deepseek_r1."""

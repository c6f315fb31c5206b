"""What is trained: weights, their precision, an adapter."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from rft.recipe.schema.section import Probability, Section


class AdapterSpec(Section):
    """LoRA: train small matrices beside frozen weights (Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    """The one kind that both trainer and engine know."""
    rank: PositiveInt = 16
    """Columns of the small matrices; more can learn more."""
    alpha: PositiveFloat = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Probability = 0.0
    """Share of adapter inputs dropped while training; makes trainer and engine differ."""
    targets: Literal["all-linear"] | list[str] = "all-linear"
    """Layers that get an adapter, by the end of their names: `[q_proj, v_proj]`."""
    start: str | None = None
    """A folder that holds such an adapter, a checkpoint say, to start from; unset, a fresh one."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Any further argument of peft's LoraConfig, by its name."""


class ModelSpec(Section):
    """Where weights come from and how they are held while training. `model: NAME` is short for its source."""

    shorthand: ClassVar[str | None] = "source"

    source: str
    """A hub id, a local folder, a .gguf file, or `packaged:NAME`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the trained weights. `auto`: bfloat16 where the processor multiplies it natively."""
    adapter: AdapterSpec | None = None
    """Train a LoRA adapter instead of all weights: `{rank: 16}`, or `{}` for its defaults."""
    chat_template: str | None = None
    """A Jinja file that replaces the tokenizer's template."""
    trust_remote_code: bool = False
    """Run Python code that comes with a hub model."""
    gradient_checkpointing: Literal["none", "mlp", "full"] = "full"
    """What the backward pass computes again instead of keeping it. `full`: whole layers; `mlp`: feed-forward
    layers only, for a tenth less time and more memory; `none`: for a little less time and twice the memory.
    """

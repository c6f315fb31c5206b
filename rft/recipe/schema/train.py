"""How long, how fast, how much at once, and what is kept."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from rft.recipe.schema.section import Probability, Section

TrackerName = Literal["wandb", "trackio", "tensorboard", "mlflow"]


class OptimizerSpec(Section):
    """AdamW and its schedule."""

    kind: Literal["adamw"] = "adamw"
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Memory of the gradient's mean and of its square."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.0
    """Pull of each weight towards zero, per step, times the learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from its value to zero over `train.steps`, after warm-up."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises from zero."""
    master_weights: bool = True
    """Keep float32 weights in the optimizer when the model trains in bfloat16, so that small steps count."""


class CheckpointSpec(Section):
    """Folders that transformers and vLLM load as they are, plus what resume needs."""

    every: NonNegativeInt = 0
    """Steps between checkpoints; 0 only at the end."""
    keep: PositiveInt = 2
    """Newest ones kept."""
    keep_best: NonNegativeInt = 1
    """Best ones by held-out reward kept besides."""
    optimizer: bool = True
    """Store the optimizer too, so that the run can go on from here."""


class TrainSpec(Section):
    """How long, how fast, how much at once."""

    steps: PositiveInt = 100
    """Batches of fresh rollouts, or of examples (TRL: max_steps)."""
    prompts_per_step: PositiveInt = 8
    """Prompts in one batch, each with `rollout.group_size` completions; or so many examples."""
    learning_rate: PositiveFloat | None = None
    """When unset: 1e-5 for all weights, 1e-4 for an adapter."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """AdamW and its schedule."""
    max_grad_norm: PositiveFloat = 1.0
    """Longer gradients are shortened to this."""
    micro_batch_tokens: PositiveInt = 4096
    """Tokens per forward pass; memory and speed, not mathematics."""
    logit_chunk: PositiveInt = 128
    """Positions whose logits exist at one time."""
    share_prompts: bool = True
    """Compute a group's prompt once for all its completions."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When to save, and what."""
    max_failure_rate: Probability = 0.1
    """Stop when more of the last 512 evaluations failed."""
    max_bugs: NonNegativeInt = 3
    """Stop after so many exceptions in evaluator code."""
    max_bad_steps: PositiveInt = 3
    """Stop after so many updates in a row whose loss or gradient was not finite."""
    min_groups: Probability = 0.5
    """Stop when fewer of a step's groups have enough scored members (`rollout.min_valid`)."""
    output_dir: str = "runs"
    """Where run folders go; relative to where rft is started."""


class TrackingSpec(Section):
    """Trackers beside the run folder, through accelerate. `tracking: wandb` is short for `{to: [wandb]}`, and
    `tracking: [wandb, tensorboard]` for both."""

    shorthand: ClassVar[str | None] = "to"
    short_types: ClassVar[tuple[type, ...]] = (str, list)

    to: list[TrackerName] = Field(default_factory=list)
    """Which; none by default."""
    project: str = "rft"
    """The project or experiment that runs are filed under."""
    rollouts: NonNegativeInt = 8
    """Rollouts of each step shown as a table."""
    args: dict[TrackerName, dict[str, Any]] = Field(default_factory=dict)
    """Further arguments by tracker, for what starts it: `{wandb: {mode: offline}}`."""

    @field_validator("to", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

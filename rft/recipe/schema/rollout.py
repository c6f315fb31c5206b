"""How the policy is sampled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from rft.recipe.schema.section import Probability, Section


class RolloutSpec(Section):
    """How the policy is sampled."""

    group_size: PositiveInt = 8
    """Completions per prompt (TRL: num_generations)."""
    max_new_tokens: PositiveInt = 256
    """Sampled tokens per turn (TRL: max_completion_length)."""
    temperature: PositiveFloat = 1.0
    """Above 1 explores more, below 1 less."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample from the likeliest tokens that hold this share of probability. A cut distribution (this, top_k,
    min_p) is another policy than the trained one; only `algorithm.mismatch` makes up for it."""
    top_k: NonNegativeInt = 0
    """Sample from the so many likeliest tokens; 0 keeps all."""
    min_p: Probability = 0.0
    """Drop tokens less likely than this share of the likeliest."""
    stop: list[str] = Field(default_factory=list)
    """Text that ends a completion."""
    max_turns: PositiveInt = 8
    """Model calls in one conversation."""
    max_total_tokens: PositiveInt | None = None
    """Prompt and all turns together; the engine's max_model_len when unset."""
    timeout_s: PositiveFloat = 600.0
    """For one whole rollout."""
    truncated: Literal["score", "mask"] = "score"
    """Rollouts cut by a limit: scored as they stand, or left out of the update."""
    min_valid: Probability = 0.75
    """A group trains with at least max(2, this share of G) scored members."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Any further vLLM sampling parameter, by vLLM's name."""
    refill_rounds: NonNegativeInt = 0
    """Dynamic sampling (DAPO): groups without reward variance are replaced by fresh ones, in at most so many
    further rounds; 0 keeps them. What is missing then is reported, and the step goes on without it."""
    oversample: Annotated[float, Field(ge=1.0)] = 1.0
    """Begin so many times `train.prompts_per_step` groups, and go on as soon as enough are finished."""
    keep_partial: bool = False
    """Play what over-sampling cut off to its end in the next step, instead of dropping it."""
    one_step_off: bool = False
    """Sample the next step while this one's update runs: faster, and one step behind the weights."""
    max_staleness: PositiveInt = 1
    """Leave out rollouts whose oldest token is more than so many steps behind the weights."""
    lockstep: bool = False
    """All conversations take their turns together, so that the same seed gives the same tokens."""

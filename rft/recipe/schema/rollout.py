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
    """Dynamic sampling (DAPO): groups without reward variance, or with too few scores, are replaced by fresh
    ones, in at most so many further rounds; 0 keeps them. What is missing then is made up with such groups,
    which teach nothing, and reported."""
    oversample: Annotated[float, Field(ge=1.0)] = 1.0
    """Begin so many times `train.prompts_per_step` groups, go on as soon as enough are finished, and cut the
    rest off. Who finishes first is a matter of time, so above 1 no two runs are the same."""
    keep_partial: bool = False
    """Play on in the next step what over-sampling cut off, instead of dropping it: finished rollouts keep
    their scores, the others are played again. Else short answers have the better chance."""
    one_step_off: bool = False
    """Sample and score the next step while this one's update runs: one step behind the weights, which
    `algorithm.mismatch` corrects. It pays where scores are slow or the engine leaves cores free. With an
    adapter's dropout no two such runs are the same: sampler and update draw from one generator."""
    max_staleness: PositiveInt = 1
    """Do not keep rollouts whose oldest token would be more than so many steps behind the weights; they are
    played again."""
    lockstep: bool = False
    """All conversations take their turns together, so that the same seed gives the same tokens, bit for bit,
    in conversations of several turns too. Each turn is as slow as its slowest."""

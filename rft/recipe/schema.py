"""Every key a recipe may have, with its default. Unknown keys are refused.

Words echo TRL's GRPOConfig where the meaning is the same. Nothing here imports torch, so checking a
recipe is instant. The shortest recipe names a model, data and an evaluator; the rest has defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the recipe: frozen, unknown keys refused, defaults checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Use(Section):
    """A class by name and its arguments. `exact` is short for `{use: exact}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    use: str
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")


def _as_use(value: Any) -> Any:
    return {"use": value} if isinstance(value, str) else value


def _as_source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


Named = Annotated[Use, BeforeValidator(_as_use)]


class AdapterSpec(Section):
    """LoRA: train small matrices beside frozen weights (Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    dropout: Probability = 0.0
    targets: Literal["all-linear"] | list[str] = "all-linear"


class ModelSpec(Section):
    """Where weights come from and how they are held while training."""

    source: str
    """A hub id, a local folder, a .gguf file, or `packaged:NAME`."""
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the trained weights. `auto`: bfloat16 where the processor multiplies it natively."""
    adapter: AdapterSpec | None = None
    chat_template: str | None = None
    """A Jinja file that replaces the tokenizer's template."""
    trust_remote_code: bool = False
    gradient_checkpointing: bool = False


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
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.45
    """Share of the GPU for engine weights and cache; the rest is the trainer's. Not used on a CPU."""
    parity_every: NonNegativeInt = 10
    """Compare engine and trainer every so many steps; 0 only at start."""
    parity_tolerance: PositiveFloat | None = None
    """Largest mean |difference of log-probabilities|; by dtype when unset (1e-4 float32, 0.05 bfloat16)."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Any further vLLM engine argument, by vLLM's name."""


class SourceSpec(Section):
    """One set of tasks. A plain string is short for `{source: ...}`."""

    source: str
    """A .jsonl, .csv or .parquet file; a folder or hub id of a Hugging Face dataset; `module:function` or
    `./file.py:function` yielding rows; or `reasoning-gym:NAME`."""
    split: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    """Ours to theirs: `{prompt: question, reference: answer}`. Ours are prompt, messages, reference, id."""
    template: str | None = None
    """A prompt built from the row: "Sort these numbers: {numbers}"."""
    system: str | None = None
    """A system message put before each chat prompt."""
    chat: bool = True
    """False: the prompt is plain text, continued without a chat template."""
    limit: PositiveInt | None = None
    """Keep the first so many rows."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Arguments for a function or a reasoning-gym generator."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


Source = Annotated[SourceSpec, BeforeValidator(_as_source)]


class DataSpec(Section):
    """Tasks to train on and, apart from them, tasks to judge by."""

    train: Source
    eval: Source | None = None
    """Held-out tasks; when unset, `eval.tasks` tasks are set aside from `train`."""
    shuffle: bool = True


class RolloutSpec(Section):
    """How the policy is sampled."""

    group_size: Annotated[int, Field(ge=1)] = 8
    """Completions per prompt (TRL: num_generations)."""
    max_new_tokens: PositiveInt = 256
    """Sampled tokens per turn."""
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: NonNegativeInt = 0
    min_p: Probability = 0.0
    stop: list[str] = Field(default_factory=list)
    max_turns: PositiveInt = 8
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


class MismatchSpec(Section):
    """Correction for the sampler being not quite the policy that is trained."""

    mode: Literal["off", "truncate", "mask"] = "mask"
    level: Literal["token", "sequence"] = "sequence"
    clip_max: PositiveFloat = 3.0


class AlgorithmSpec(Section):
    """How scores become gradients."""

    kind: Literal["grpo"] = "grpo"
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    """What the sum of token losses is divided by; see rft/learn/loss.py."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation divides the centred reward."""
    epsilon: NonNegativeFloat = 0.2
    epsilon_high: NonNegativeFloat | None = None
    """Upper clip; `epsilon` when unset."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL divergence from the starting model; 0 loads no reference."""
    num_iterations: PositiveInt = 1
    """Passes over one batch."""
    minibatches: PositiveInt = 1
    """Optimizer steps per pass."""
    mismatch: MismatchSpec = MismatchSpec()


class OptimizerSpec(Section):
    """AdamW and its schedule."""

    kind: Literal["adamw"] = "adamw"
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    master_weights: bool = True
    """Keep float32 weights in the optimizer when the model trains in bfloat16, so that small steps count."""


class CheckpointSpec(Section):
    """Folders that transformers and vLLM load as they are, plus what resume needs."""

    every: NonNegativeInt = 0
    """Steps between checkpoints; 0 only at the end."""
    keep: PositiveInt = 2
    """Newest ones kept."""
    optimizer: bool = True
    """Store the optimizer too, so that the run can go on from here."""


class TrainSpec(Section):
    """How long, how fast, how much at once."""

    steps: PositiveInt = 100
    prompts_per_step: PositiveInt = 8
    learning_rate: PositiveFloat | None = None
    """When unset: 1e-5 for all weights, 1e-4 for an adapter."""
    optimizer: OptimizerSpec = OptimizerSpec()
    max_grad_norm: PositiveFloat = 1.0
    micro_batch_tokens: PositiveInt = 1024
    """Tokens per forward pass; memory, not mathematics."""
    logit_chunk: PositiveInt = 512
    """Positions whose logits exist at one time."""
    share_prompts: bool = True
    """Compute a group's prompt once for all its completions."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    max_failure_rate: Probability = 0.1
    """Stop when more of the last 512 evaluations failed."""
    max_bugs: NonNegativeInt = 3
    """Stop after so many exceptions in evaluator code."""
    output_dir: str = "runs"


class EvalSpec(Section):
    """Held-out evaluation before, during and after training."""

    every: NonNegativeInt = 10
    """Steps between evaluations; 0 only before and after."""
    tasks: PositiveInt = 64
    samples: PositiveInt = 1
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""


class ServeSpec(Section):
    """The OpenAI-compatible endpoint on the training engine."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes a free port and prints it."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; no key is asked for when unset."""
    model_name: str | None = None
    """The name clients use; the recipe's name when unset."""
    tool_call_parser: str | None = None
    """vLLM's parser for tool calls, e.g. hermes."""
    reasoning_parser: str | None = None


class Recipe(Section):
    """One experiment, whole."""

    name: str = "run"
    seed: NonNegativeInt = 0
    preset: str | None = None
    """Defaults by name, laid under this recipe; see `rft recipe presets`."""
    model: Annotated[ModelSpec, BeforeValidator(_as_source)]
    engine: EngineSpec = EngineSpec()
    data: DataSpec
    environment: Named = Use(use="single_turn")
    evaluator: Named
    rollout: RolloutSpec = RolloutSpec()
    algorithm: AlgorithmSpec = AlgorithmSpec()
    train: TrainSpec = TrainSpec()
    eval: EvalSpec = EvalSpec()
    serve: ServeSpec | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.rollout.group_size < 2:
            raise ValueError("rollout.group_size must be at least 2: GRPO compares answers to one prompt")
        if self.engine.publish == "adapter" and self.model.adapter is None:
            raise ValueError("engine.publish: adapter needs model.adapter; name one or take auto")
        return self

"""Every key a recipe may have, with its default. Unknown keys are refused.

Words echo TRL's GRPOConfig where the meaning is the same. Nothing here imports torch, so checking a
recipe is instant. The shortest recipe names a model, data and an evaluator; the rest has defaults.
The line under a field is its help: `rft recipe keys` prints it, and a test holds that none is missing.

Some sections may be written as plain text: `evaluator: exact` is `evaluator: {use: exact}`. Each such
section names in `shorthand` the key that the text stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the recipe: frozen, unknown keys refused, defaults checked too."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
    shorthand: ClassVar[str | None] = None
    """The key that plain text in place of this section stands for."""

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: Any) -> Any:
        return {cls.shorthand: value} if cls.shorthand and isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        # Python counts true as 1; in a recipe it is a slip.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("must not be true or false; null leaves it unset")
        return value


class Use(Section):
    """A class by name and its arguments. `exact` is short for `{use: exact}`."""

    shorthand: ClassVar[str | None] = "use"

    use: str
    """`module:Class`, `./file.py:Class` beside the recipe, or the name of an installed one."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Its arguments, checked against its Config before anything loads."""


class EvaluatorUse(Use):
    """An evaluator by name, and whether it must have been checked."""

    require_check: Literal["pass", "warn", "none"] = "warn"
    """What `rft train` asks of `rft evaluator check`: `pass` refuses an evaluator without a report that
    passed for this very fingerprint, `warn` says so and goes on."""


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


class SourceSpec(Section):
    """One set of tasks. A plain string is short for `{source: ...}`."""

    shorthand: ClassVar[str | None] = "source"

    source: str
    """A .jsonl, .csv or .parquet file; a folder or hub id of a Hugging Face dataset; `module:function` or
    `./file.py:function` yielding rows; or `reasoning-gym:NAME`."""
    split: str | None = None
    """Split of a Hugging Face dataset; `train` when unset."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Ours to theirs: `{prompt: question, reference: answer}`. Ours are prompt, messages, reference, id,
    and any field that an evaluator asks for."""
    template: str | None = None
    """A prompt built from the row: "Sort these numbers: {numbers}"."""
    system: str | None = None
    """A system message put before each chat prompt."""
    chat: bool = True
    """False: the prompt is plain text, continued without a chat template."""
    limit: PositiveInt | None = None
    """Keep the first so many rows."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Arguments for a function, a reasoning-gym generator, or `datasets.load_dataset`."""


class DataSpec(Section):
    """Tasks to train on and, apart from them, tasks to judge by."""

    train: SourceSpec
    """Tasks to train on."""
    eval: SourceSpec | None = None
    """Held-out tasks; when unset, `eval.tasks` tasks are set aside from `train`."""
    shuffle: bool = True
    """A new seeded order each epoch; false keeps the order of the file."""


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


class MismatchSpec(Section):
    """Correction for the sampler being not quite the policy that is trained."""

    mode: Literal["off", "truncate", "mask"] = "mask"
    """What happens beyond `clip_max`: nothing, the weight is cut to it, or the tokens are left out."""
    level: Literal["token", "sequence"] = "sequence"
    """Weigh each token by itself, or each completion as a whole."""
    clip_max: PositiveFloat = 3.0
    """Largest trusted ratio of policy to sampler probability."""


class AlgorithmSpec(Section):
    """How scores become gradients."""

    kind: Literal["grpo"] = "grpo"
    """Group-relative policy optimization: answers to one prompt are compared with each other."""
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"] = "dapo"
    """What the sum of token losses is divided by; see rft/learn/loss.py."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation divides the centred reward."""
    epsilon: NonNegativeFloat = 0.2
    """The policy may move by this ratio in one update before its gradient is clipped."""
    epsilon_high: NonNegativeFloat | None = None
    """Upper clip; `epsilon` when unset."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL divergence from the starting model; 0 loads no reference."""
    num_iterations: PositiveInt = 1
    """Passes over one batch."""
    minibatches: PositiveInt = 1
    """Optimizer steps per pass."""
    mismatch: MismatchSpec = MismatchSpec()
    """Correction for the difference between sampler and policy."""


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
    optimizer: bool = True
    """Store the optimizer too, so that the run can go on from here."""


class TrainSpec(Section):
    """How long, how fast, how much at once."""

    steps: PositiveInt = 100
    """Batches of fresh rollouts (TRL: max_steps)."""
    prompts_per_step: PositiveInt = 8
    """Prompts in one batch; each gets `rollout.group_size` completions."""
    learning_rate: PositiveFloat | None = None
    """When unset: 1e-5 for all weights, 1e-4 for an adapter."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """AdamW and its schedule."""
    max_grad_norm: PositiveFloat = 1.0
    """Longer gradients are shortened to this."""
    micro_batch_tokens: PositiveInt = 2048
    """Tokens per forward pass; memory, not mathematics."""
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
    min_groups: Probability = 0.5
    """Stop when fewer of a step's groups have enough scored members (`rollout.min_valid`)."""
    output_dir: str = "runs"
    """Where run folders go; relative to where rft is started."""


class ScoringSpec(Section):
    """How the evaluator is looked after while the run goes on."""

    cache: Literal["run", "user"] | None = "run"
    """Verdicts of deterministic evaluators on identical rollouts: kept in the run's folder, or in the user's
    cache for all runs; null asks each time."""
    max_usd: PositiveFloat | None = None
    """Dollars that evaluations may cost; the evaluator's own limit when unset. A run that would cost more is
    refused at its start."""
    canaries_every: NonNegativeInt = 10
    """Score the evaluator's golden cases again every so many steps; 0 only at the start."""
    canaries_bad: PositiveInt = 2
    """Stop when golden cases did not hold so many times running."""


class EvalSpec(Section):
    """Held-out evaluation before, during and after training."""

    every: NonNegativeInt = 10
    """Steps between evaluations; 0 only before and after."""
    tasks: PositiveInt = 64
    """Held-out tasks judged each time; at most a fifth of the data when set aside from `data.train`."""
    samples: PositiveInt = 1
    """Completions per task."""
    temperature: NonNegativeFloat = 0.0
    """0 is greedy."""


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


class Recipe(Section):
    """One experiment, whole."""

    name: str = "run"
    """Names the run folder and the served model."""
    seed: NonNegativeInt = 0
    """Same recipe, same seed, same machine: same metrics."""
    preset: str | None = None
    """Defaults by name, laid under this recipe; unset in a resolved recipe, which spells them out."""
    model: ModelSpec
    """What to train."""
    engine: EngineSpec = EngineSpec()
    """What generates and serves."""
    data: DataSpec
    """What to ask."""
    environment: Use = Use(use="single_turn")
    """Whom the policy talks to."""
    evaluator: EvaluatorUse
    """Who gives the score."""
    rollout: RolloutSpec = RolloutSpec()
    """How to sample."""
    algorithm: AlgorithmSpec = AlgorithmSpec()
    """How to learn."""
    train: TrainSpec = TrainSpec()
    """How long and how fast."""
    scoring: ScoringSpec = ScoringSpec()
    """How to look after the evaluator."""
    eval: EvalSpec = EvalSpec()
    """How to judge."""
    serve: ServeSpec | None = None
    """Serve while training: `{}` for the defaults."""

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        found = list(self._contradictions())
        if found:
            text = "; ".join(f"{path} {message}" for path, message in found)
            raise PydanticCustomError("contradiction", "{text}", {"text": text, "found": found})
        return self

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Pairs of (key, what is wrong) for values that are fine alone and not together."""
        if self.rollout.group_size < 2:
            yield "rollout.group_size", "must be at least 2: GRPO compares answers to one prompt"
        if self.engine.publish == "adapter" and self.model.adapter is None:
            yield "engine.publish", "is adapter, which needs model.adapter; set it, or take auto"
        if self.eval.samples > 1 and self.eval.temperature == 0:
            yield "eval.samples", "above 1 gives the same greedy answer again; set eval.temperature too"
        room = self.engine.max_model_len
        if room is not None and room <= self.rollout.max_new_tokens:
            yield "engine.max_model_len", "leaves no room for a prompt beside rollout.max_new_tokens"
        for name in ("train", "eval"):
            source: SourceSpec | None = getattr(self.data, name)
            if source is not None and source.system is not None and not source.chat:
                yield f"data.{name}.system", "needs a chat prompt, but chat is false"
        for path, extra, section in (
            ("engine.args", self.engine.args, EngineSpec),
            ("rollout.sampling", self.rollout.sampling, RolloutSpec),
        ):
            for key in extra.keys() & section.model_fields.keys():
                yield f"{path}.{key}", f"has a key of its own: set {path.split('.')[0]}.{key}"

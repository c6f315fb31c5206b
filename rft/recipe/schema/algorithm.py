"""How scores become gradients."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from rft.recipe.schema.named import known_or_own
from rft.recipe.schema.section import Probability, Section

UnitShare = Annotated[float, Field(gt=0.0, le=1.0)]
Examples = Literal["sft", "dpo", "kto"]

ANSWERS: dict[Examples, tuple[str, ...]] = {
    "sft": ("completion",),
    "dpo": ("chosen", "rejected"),
    "kto": ("completion",),
}
"""The fields of an example that hold an answer, by the kind of learning; kto's have a `label` too."""


LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "luspo", "cispo", "sapo", "vespo")
CLIPPED_LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "luspo")
"""Those that clip the ratio itself. They differ in what they divide by."""
LOSS_ARGS = {
    "sapo": ("temperature_pos", "temperature_neg"),
    "vespo": ("k_pos", "lambda_pos", "k_neg", "lambda_neg"),
}
"""Constants of the loss types that have some; TRL's, without the type's name in front."""
ADVANTAGES = ("group", "rloo", "reinforce_pp", "reinforce_pp_baseline", "max_rl", "gdpo")

_WITHIN_GROUPS = ("group", "rloo", "max_rl")
"""Credit that is zero for every member of a group whose rewards are all equal."""


class MismatchSpec(Section):
    """Correction for the sampler being not quite the policy that is trained."""

    mode: Literal["off", "truncate", "mask", "icepop"] = "mask"
    """What happens beyond the trusted band: nothing, the weight is cut to `clip_max`, or the tokens are left
    out above `clip_max` (`mask`) or outside `clip_min` to `clip_max` (`icepop`)."""
    level: Literal["token", "sequence", "geometric"] = "sequence"
    """Weigh each token by itself, each completion as a whole, or by its tokens' geometric mean."""
    clip_max: PositiveFloat = 3.0
    """Largest trusted ratio of policy to sampler probability."""
    clip_min: NonNegativeFloat = 0.5
    """Smallest trusted ratio; for `icepop`."""
    off_policy_threshold: PositiveFloat | None = None
    """Leave out bad completions whose mean log-ratio of sampler to policy is above this, nats."""


class KLSpec(Section):
    """The divergence from a reference model that `algorithm.beta` weighs."""

    estimator: Literal["k1", "k2", "k3"] = "k3"
    """How it is estimated from one sample: plain, squared, or the low-variance one (Schulman 2020)."""
    place: Literal["loss", "reward"] = "loss"
    """A term of the loss, or taken off each token's reward before credit is given."""
    corrected: bool = False
    """Weigh the loss term by the importance ratio, which makes its gradient unbiased off policy."""
    sync_every: NonNegativeInt = 0
    """Steps after which the reference follows the policy; 0 keeps the starting model."""
    sync_mix: UnitShare = 1.0
    """How far it follows: 1 takes the policy's weights, less mixes them in."""


class EntropySpec(Section):
    """Keeping the policy undecided enough to explore."""

    coef: NonNegativeFloat = 0.0
    """Weight of the mean token entropy, which the loss then rewards."""
    target: NonNegativeFloat | None = None
    """Nats a token. At or below it `coef` counts and grows by `step`; above it `coef` shrinks and does not
    count. Unset: `coef` stays as it is."""
    step: PositiveFloat = 5e-3
    """How far `coef` moves after each optimizer step."""
    coef_max: PositiveFloat = 1.0
    """`coef` stays at or below this while it follows a target."""
    top_quantile: UnitShare = 1.0
    """Train only on this share of tokens: those where the policy is least decided (arXiv:2506.01939)."""


class CriticSpec(Section):
    """PPO's value function and what is made of it."""

    kind: Literal["head", "model"] = "head"
    """A linear head on the policy's own trunk, or a model of its own that starts from the same weights."""
    learning_rate: PositiveFloat | None = None
    """When unset: the policy's for a model of its own; for a head 0.05 over the hidden size, which moves a
    value by some hundredths a step, right for rewards between 0 and 1."""
    warmup_steps: NonNegativeInt = 0
    """Steps of `train.steps` that train the critic alone, before the policy moves."""
    coef: PositiveFloat = 0.5
    """Weight of the value loss in the policy's trunk, which a head shares."""
    epsilon: PositiveFloat | None = 0.2
    """A value may move so far in one update before its gradient is clipped; null does not clip."""
    gamma: UnitShare = 1.0
    """Discount a token."""
    lam: Probability = 0.95
    """GAE's lambda: 1 is the return itself, 0 the one-step difference."""
    whiten: bool = True
    """Give advantages mean 0 and variance 1 over the batch."""


class AlgorithmSpec(Section):
    """How scores, or examples, become gradients. `algorithm: sft` is short for its kind."""

    shorthand: ClassVar[str | None] = "kind"

    kind: Literal["grpo", "ppo", "sft", "dpo", "kto"] = "grpo"
    """`grpo`: answers to one prompt are compared with each other. `ppo`: a critic says what was to be
    expected. `sft`, `dpo`, `kto`: no rollouts; examples, pairs or thumbs from `data.train`."""
    loss_type: str = "dapo"
    """`grpo`, `dr_grpo`, `dapo`, `bnpo`, `luspo`, `cispo`, `sapo`, `vespo` (rft/learn/surrogates.py), or one
    of your own by `module:function` or `./file.py:function` (rft/learn/loss.py says what it takes)."""
    normaliser: Literal["grpo", "dr_grpo", "dapo", "bnpo", "luspo"] | None = None
    """What the loss is divided by, named by the loss type that does so; unset: its own, or `dapo`'s for a
    loss of your own."""
    loss_args: dict[str, Any] = Field(default_factory=dict)
    """Constants of `sapo`, `vespo` or a loss of your own, by its parameters' names."""
    importance_level: Literal["token", "sequence"] = "token"
    """Whose probability ratio is clipped: each token's, or the whole completion's geometric mean (GSPO)."""
    advantage: str = "group"
    """Credit: `group`, `rloo`, `reinforce_pp`, `reinforce_pp_baseline`, `max_rl`, `gdpo`, or one of your own
    by `module:function`; see rft/learn/credit.py. PPO takes its critic's."""
    advantage_args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of an advantage of your own, by its parameters' names."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation divides the centred reward; for `advantage: group`."""
    turn_credit: Literal["rollout", "turn"] = "rollout"
    """Every token has its rollout's credit, or that of what followed its turn, where an evaluator or else the
    environment gave values for turns; without values the two are the same. The score stays what counts."""
    epsilon: NonNegativeFloat = 0.2
    """The policy may move by this ratio in one update before its gradient is clipped."""
    epsilon_high: NonNegativeFloat | None = None
    """Upper clip; `epsilon` when unset. For `cispo` the most that a ratio itself may weigh."""
    delta: PositiveFloat | None = None
    """Two-sided clipping: the ratio counts at most this much, whatever the advantage's sign."""
    dual_clip: Annotated[float, Field(gt=1.0)] | None = None
    """A bad answer's loss counts at most this many times its advantage (arXiv:1912.09729)."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL divergence from the reference, which is what the run starts from; 0 loads none."""
    kl: KLSpec = KLSpec()
    """How that divergence is estimated, and where it counts."""
    entropy: EntropySpec = EntropySpec()
    """Keeping the policy undecided enough to explore."""
    num_iterations: PositiveInt = 1
    """Passes over one batch."""
    minibatches: PositiveInt = 1
    """Optimizer steps per pass."""
    mismatch: MismatchSpec = MismatchSpec()
    """Correction for the difference between sampler and policy."""
    critic: CriticSpec = CriticSpec()
    """PPO's value function."""
    args: dict[str, Any] = Field(default_factory=dict)
    """For `sft`, `dpo`, `kto`: any further argument of TRL's config of that name, as `{beta: 0.2}`."""

    @property
    def examples(self) -> Examples | None:
        """The kind, where answers come from data; None where they are sampled."""
        return None if self.kind == "grpo" or self.kind == "ppo" else self.kind

    @property
    def needs_reference(self) -> bool:
        """Whether the starting model is loaded a second time, unless an adapter's base serves as it."""
        return self.beta > 0.0 or self.kind in ("dpo", "kto")

    @field_validator("loss_type")
    @classmethod
    def _loss_type_is_known(cls, name: str) -> str:
        if name == "gspo":
            raise ValueError("is loss_type: grpo with importance_level: sequence; write these")
        return known_or_own(name, LOSS_TYPES)

    @field_validator("advantage")
    @classmethod
    def _advantage_is_known(cls, name: str) -> str:
        return known_or_own(name, ADVANTAGES)

    @property
    def min_members(self) -> int:
        """Scored members that a group needs at the least: two where they are compared with each other."""
        return 1 if self.kind != "grpo" or self.advantage == "reinforce_pp" else 2

    @property
    def compares_answers(self) -> bool:
        """Whether an answer's credit is what it earned beyond the others to its prompt, and nothing else."""
        return self.kind == "grpo" and self.advantage in _WITHIN_GROUPS and self.turn_credit == "rollout"

    @property
    def trains_constant(self) -> bool:
        """Whether a group whose rewards are all equal has a gradient all the same: its answers are compared
        with more than each other, with more than their totals, or the loss has further terms."""
        spec = self.entropy
        entropy = spec.coef > 0.0 or spec.target is not None or spec.top_quantile < 1.0
        return not self.compares_answers or self.beta > 0.0 or entropy

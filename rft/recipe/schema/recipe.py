"""One experiment, whole: its sections, and what contradicts what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, NonNegativeInt, model_validator
from pydantic_core import PydanticCustomError

from rft.recipe.schema.algorithm import CLIPPED_LOSSES, LOSS_ARGS, AlgorithmSpec, CriticSpec
from rft.recipe.schema.data import DataSpec, SourceSpec
from rft.recipe.schema.engine import EngineSpec, ServeSpec
from rft.recipe.schema.model import ModelSpec
from rft.recipe.schema.rollout import RolloutSpec
from rft.recipe.schema.scoring import EvalSpec, EvaluatorUse, ScoringSpec
from rft.recipe.schema.section import Section, Use
from rft.recipe.schema.train import TrackingSpec, TrainSpec


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
    tracking: TrackingSpec = TrackingSpec()
    """Where else to report."""
    serve: ServeSpec | None = None
    """Serve while training: `{}` for the defaults."""
    stages: list[str | dict[str, Any]] = Field(default_factory=list)
    """Runs one after the other, each from the weights of the one before: kinds of `algorithm`, or keys laid
    over this recipe: `[{algorithm: sft, data: {train: demos.jsonl}}, grpo]`. As an override:
    `stages.0.train.steps=5`."""

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        found = list(self._contradictions())
        if found:
            text = "; ".join(f"{path} {message}" for path, message in found)
            raise PydanticCustomError("contradiction", "{text}", {"text": text, "found": found})
        return self

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        """Pairs of (key, what is wrong) for values that are fine alone and not together."""
        least = self.algorithm.min_members
        if self.rollout.group_size < least:
            yield "rollout.group_size", f"must be at least {least}: answers to one prompt are compared"
        curriculum = self.data.curriculum
        if curriculum is not None and curriculum.low >= curriculum.high:
            yield "data.curriculum.low", "must be below data.curriculum.high: no task lies between them"
        yield from _credit(self.algorithm)
        yield from _loss(self.algorithm)
        yield from _supply(self.rollout, self.algorithm)
        yield from _critic(self.algorithm, self.train.steps)
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
        yield from self._about_examples()

    def _about_examples(self) -> Iterator[tuple[str, str]]:
        """What contradicts learning from examples."""
        algorithm = self.algorithm
        kind = algorithm.examples
        if kind is None:
            if algorithm.args:
                yield "algorithm.args", f"is for sft, dpo and kto; {algorithm.kind} has keys of its own"
            return
        for name, unset in AlgorithmSpec():
            if name not in ("kind", "args") and getattr(algorithm, name) != unset:
                theirs = name == "loss_type" or (name == "beta" and kind != "sft")
                instead = f"; set algorithm.args.{name}" if theirs else ""
                yield f"algorithm.{name}", f"means nothing for {kind}{instead}"
        if kind == "kto" and self.train.prompts_per_step < 2:
            yield "train.prompts_per_step", "must be at least 2: KTO compares prompts with others' answers"


def _credit(algorithm: AlgorithmSpec) -> Iterator[tuple[str, str]]:
    """What the ways of giving credit cannot take."""
    advantage = algorithm.advantage
    path = "algorithm.advantage"
    if algorithm.kind == "ppo" and advantage != "group":
        yield path, "is for kind: grpo; PPO takes its critic's"
    if algorithm.scale_rewards != "group" and (advantage != "group" or algorithm.kind == "ppo"):
        yield "algorithm.scale_rewards", f"is for {path}: group; other credit has its own scale"
    if algorithm.advantage_args and ":" not in advantage:
        yield "algorithm.advantage_args", f"is for a function of your own in {path}"
    if algorithm.turn_credit == "turn" and (advantage in ("gdpo", "max_rl") or ":" in advantage):
        yield "algorithm.turn_credit", f"turn has no meaning with {path}: {advantage}"
    if algorithm.beta > 0.0 and algorithm.kl.place == "reward" and advantage in ("gdpo", "max_rl"):
        yield "algorithm.kl.place", f"reward has no meaning with {path}: {advantage}; take loss"


def _critic(algorithm: AlgorithmSpec, steps: int) -> Iterator[tuple[str, str]]:
    """A critic that nobody asks, and a policy that never moves."""
    critic, unset = algorithm.critic, CriticSpec()
    if algorithm.kind == "grpo" and critic != unset:
        yield "algorithm.critic", "is for kind: ppo"
    if algorithm.kind == "ppo" and critic.warmup_steps >= steps:
        yield "algorithm.critic.warmup_steps", f"leaves none of train.steps ({steps}) for the policy"
    if critic.kind == "model" and critic.coef != unset.coef:
        yield "algorithm.critic.coef", "means nothing for a model of its own, which shares no trunk"


def _supply(rollout: RolloutSpec, algorithm: AlgorithmSpec) -> Iterator[tuple[str, str]]:
    """What decides which groups a step gets, and does not go together."""
    if rollout.refill_rounds and algorithm.examples is None and not algorithm.compares_answers:
        yield "rollout.refill_rounds", "replaces groups that teach nothing, but with this credit all teach"
    if rollout.keep_partial and rollout.oversample == 1.0:
        yield "rollout.keep_partial", "has nothing to keep; set rollout.oversample above 1"
    if rollout.max_staleness > 1 and not (rollout.keep_partial or rollout.one_step_off):
        yield "rollout.max_staleness", "bounds nothing: set rollout.keep_partial or rollout.one_step_off"
    if rollout.keep_partial and rollout.one_step_off and rollout.max_staleness < 2:
        yield "rollout.max_staleness", "must be at least 2: what is kept is one step older than one step off"
    if rollout.lockstep and rollout.oversample > 1.0:
        yield "rollout.lockstep", "keeps runs the same, but over-sampling goes by who is first; set one"
    if (rollout.keep_partial or rollout.one_step_off) and algorithm.mismatch.mode == "off":
        older = "one_step_off" if rollout.one_step_off else "keep_partial"
        yield "algorithm.mismatch.mode", f"must not be off: rollout.{older} trains on older weights' answers"


def _loss(algorithm: AlgorithmSpec) -> Iterator[tuple[str, str]]:
    """What a loss type cannot take, and what would be set in vain."""
    kind = algorithm.loss_type
    for key in ("delta", "dual_clip", "epsilon_high"):
        can = CLIPPED_LOSSES if key != "epsilon_high" else (*CLIPPED_LOSSES, "cispo")
        if getattr(algorithm, key) is not None and ":" not in kind and kind not in can:
            yield f"algorithm.{key}", f"means nothing for {kind}, which does not clip"
    if algorithm.delta is not None and algorithm.dual_clip is not None:
        yield "algorithm.dual_clip", "bounds what delta bounds; set one of them"
    if kind == "cispo" and (algorithm.epsilon_high or 0.0) < 1.0:
        yield "algorithm.epsilon_high", "is what cispo lets a ratio weigh at most, so at least 1; try 5"
    if kind == "vespo" and algorithm.importance_level == "sequence":
        yield "algorithm.importance_level", "means nothing for vespo, which weighs whole sequences itself"
    for name in algorithm.loss_args if ":" not in kind else ():
        known = LOSS_ARGS.get(kind, ())
        if name not in known:
            takes = f"takes {', '.join(known)}" if known else "takes none"
            yield f"algorithm.loss_args.{name}", f"is no constant of {kind}, which {takes}"
    kl, entropy, mismatch = algorithm.kl, algorithm.entropy, algorithm.mismatch
    if algorithm.beta > 0.0 and (kl.place, kl.estimator, kl.corrected) == ("loss", "k1", False):
        yield "algorithm.kl.estimator", "k1 has no gradient in a loss; set kl.corrected, or kl.place: reward"
    if algorithm.beta == 0.0 and kl.sync_every:
        yield "algorithm.kl.sync_every", "moves a reference that algorithm.beta: 0 does not ask; set beta"
    if kl.corrected and kl.place == "reward":
        yield "algorithm.kl.corrected", "is for kl.place: loss"
    if entropy.target is not None and entropy.coef > entropy.coef_max:
        yield "algorithm.entropy.coef", "starts above coef_max"
    if mismatch.mode == "icepop" and mismatch.clip_min >= mismatch.clip_max:
        yield "algorithm.mismatch.clip_min", "must be below clip_max"

"""One experiment, whole: its sections, and what contradicts what."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import NonNegativeInt, model_validator
from pydantic_core import PydanticCustomError

from rft.recipe.schema.algorithm import AlgorithmSpec
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

"""Every key a recipe may have, with its default: one file per section. Unknown keys are refused.

Words echo TRL's GRPOConfig where the meaning is the same. Nothing here imports torch, so checking a
recipe is instant. The shortest recipe names a model, data and an evaluator; the rest has defaults.
The line under a field is its help: `rft recipe keys` prints it, and a test holds that none is missing.
"""

from rft.recipe.schema.algorithm import (
    ANSWERS,
    AlgorithmSpec,
    CriticSpec,
    EntropySpec,
    Examples,
    KLSpec,
    MismatchSpec,
)
from rft.recipe.schema.data import CurriculumSpec, DataSpec, SourceSpec
from rft.recipe.schema.engine import EngineSpec, ServeSpec
from rft.recipe.schema.model import AdapterSpec, ModelSpec
from rft.recipe.schema.recipe import Recipe
from rft.recipe.schema.rollout import RolloutSpec
from rft.recipe.schema.scoring import EvalSpec, EvaluatorUse, ScoringSpec
from rft.recipe.schema.section import Section, Use
from rft.recipe.schema.train import CheckpointSpec, OptimizerSpec, TrackerName, TrackingSpec, TrainSpec

__all__ = [
    "ANSWERS",
    "AdapterSpec",
    "AlgorithmSpec",
    "CheckpointSpec",
    "CriticSpec",
    "CurriculumSpec",
    "DataSpec",
    "EngineSpec",
    "EntropySpec",
    "EvalSpec",
    "EvaluatorUse",
    "Examples",
    "KLSpec",
    "MismatchSpec",
    "ModelSpec",
    "OptimizerSpec",
    "Recipe",
    "RolloutSpec",
    "ScoringSpec",
    "Section",
    "ServeSpec",
    "SourceSpec",
    "TrackerName",
    "TrackingSpec",
    "TrainSpec",
    "Use",
]

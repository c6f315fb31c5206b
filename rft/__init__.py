"""rft: reinforcement fine-tuning where experiment and production are one system."""

from rft.environment import Environment, Observation, Step
from rft.errors import EnvironmentFailure, EvaluatorError
from rft.evaluator import (
    BatchEvaluator,
    Case,
    Evaluator,
    GroupEvaluator,
    Limits,
    PairwiseEvaluator,
    evaluator,
)
from rft.scoring.blocking import score
from rft.types import Cost, Failure, Group, Message, Rollout, Score, Task, Turn

__all__ = [
    "BatchEvaluator",
    "Case",
    "Cost",
    "Environment",
    "EnvironmentFailure",
    "Evaluator",
    "EvaluatorError",
    "Failure",
    "Group",
    "GroupEvaluator",
    "Limits",
    "Message",
    "Observation",
    "PairwiseEvaluator",
    "Rollout",
    "Score",
    "Step",
    "Task",
    "Turn",
    "evaluator",
    "score",
]

__version__ = "0.1.0"

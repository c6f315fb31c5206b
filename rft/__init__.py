"""rft: reinforcement fine-tuning where experiment and production are one system."""

from rft.environment import Environment, Observation, Step
from rft.errors import EnvironmentFailure, EvaluatorError
from rft.evaluator import Case, Evaluator, Limits, evaluator
from rft.scoring.blocking import score
from rft.types import Cost, Failure, Group, Message, Rollout, Score, Task, Turn

__all__ = [
    "Case",
    "Cost",
    "Environment",
    "EnvironmentFailure",
    "Evaluator",
    "EvaluatorError",
    "Failure",
    "Group",
    "Limits",
    "Message",
    "Observation",
    "Rollout",
    "Score",
    "Step",
    "Task",
    "Turn",
    "evaluator",
    "score",
]

__version__ = "0.1.0"

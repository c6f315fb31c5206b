"""rft: reinforcement fine-tuning where experiment and production are one system."""

import typing

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

if typing.TYPE_CHECKING:
    from rft.http.evaluator import HTTPEvaluator

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
    "HTTPEvaluator",
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


def __getattr__(name: str) -> typing.Any:
    if name == "HTTPEvaluator":  # brings httpx, which those who call no API need not wait for
        from rft.http.evaluator import HTTPEvaluator

        return HTTPEvaluator
    raise AttributeError(f"module 'rft' has no attribute {name!r}")

"""Everything rft raises on purpose.

    RftError
    ├── UserError             your input; one line, exit code 2, nothing lost
    │   ├── RecipeError       the recipe: all mistakes at once, each with its line
    │   ├── ResolveError      a name that does not lead to a class
    │   ├── DataError         data that cannot be read or lacks a field
    │   ├── ModelError        a model that cannot be found, read or fitted into memory
    │   ├── ServeError        a port in use, an endpoint that does not answer
    │   └── RunError          a run folder or checkpoint that is missing, broken or cannot be written
    ├── EvaluatorError        the instrument's fault (API down, judge unreadable): masked, never a number
    ├── EnvironmentFailure    the environment's fault: retried once, then masked
    ├── EndpointError         a model behind somebody's API gave no answer: a failure, never a zero
    ├── EngineError           the engine broke or a weight binding does not hold
    └── RunStopped            the run stopped itself after saving, e.g. too many failed evaluations

A message says what was wrong, what it got, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rft.types import FailureKind


class RftError(Exception):
    """Base of everything rft raises on purpose."""

    exit_code = 1


class UserError(RftError):
    """Wrong input. The command line prints it as one line and exits with 2."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe.

    >>> str(Problem("train.stpes", "unknown key; did you mean 'steps'?", line=12, got="8"))
    "line 12, train.stpes: unknown key; did you mean 'steps'? (got 8)"
    """

    path: str
    message: str
    line: int | None = None
    got: str | None = None
    origin: str | None = None
    """Where the value came from when not from the recipe's file: "override train.stpes=5"."""

    def __str__(self) -> str:
        origin = self.origin or (f"line {self.line}" if self.line is not None else "")
        where = ", ".join(part for part in (origin, self.path) if part)
        return f"{where}: {self.message}" + (f" (got {self.got})" if self.got is not None else "")


class RecipeError(UserError):
    """All mistakes of one recipe."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = list(problems)
        count = f"{len(self.problems)} mistake" + ("s" if len(self.problems) != 1 else "")
        super().__init__("\n  ".join([f"{source}: {count}", *map(str, self.problems)]))


class ResolveError(UserError):
    """A name in a recipe that does not lead to an evaluator, environment, model or callable."""


class DataError(UserError):
    """Data that cannot be read, lacks a field, or holds nothing that fits."""


class ModelError(UserError):
    """A model that cannot be found, read, or fitted into memory."""


class ServeError(UserError):
    """A port that is taken, or an endpoint that does not answer as promised."""


class RunError(UserError):
    """A run folder or checkpoint that is missing, broken, or cannot be written."""


class EvaluatorError(RftError):
    """Raise it from an evaluator when the *instrument* failed: the sample is masked, never scored.

    Args:
        kind: one of the failure kinds of `rft.types.FailureKind`.
        detail: what happened, without secrets; it is stored with the rollout.
        retryable: whether trying again could help.
        retry_after_s: seconds the service asked to be left alone, when it said so.
        hopeless: every further evaluation would fail in the same way (a refused key): the run stops at once.
    """

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        retryable: bool = False,
        retry_after_s: float | None = None,
        hopeless: bool = False,
    ) -> None:
        self.kind: FailureKind = kind
        self.detail = detail
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.hopeless = hopeless
        super().__init__(f"{kind}: {detail}")


class EnvironmentFailure(RftError):
    """Raise it from an environment when its infrastructure failed; tool errors are messages instead.

    Args:
        detail: what happened, without secrets; it is stored with the rollout.
        kind: one of the failure kinds of `rft.types.FailureKind`.
    """

    def __init__(self, detail: str, kind: FailureKind = "sandbox") -> None:
        self.kind: FailureKind = kind
        super().__init__(detail)


class EndpointError(RftError):
    """A model behind an API gave no answer, retries included.

    Args:
        kind: one of the failure kinds of `rft.types.FailureKind`.
        detail: what happened, without secrets; it is stored with the rollout.
    """

    def __init__(self, kind: FailureKind, detail: str) -> None:
        self.kind: FailureKind = kind
        self.detail = detail
        super().__init__(f"{kind}: {detail}")


class EngineError(RftError):
    """The engine broke, or trainer and engine do not agree on the weights."""


class RunStopped(RftError):
    """The run stopped itself, after a checkpoint, to protect the model or the budget."""

"""What the bridges share: finding the other library's object, its settings, and a fingerprint of its code."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, field_serializer, model_validator

from rft.errors import UserError
from rft.evaluator import Evaluator, FunctionEvaluator
from rft.recipe.resolve import resolve_object
from rft.types import Message, Rollout, Score


class ForeignConfig(BaseModel):
    """The `with:` block that all bridges have."""

    model_config = ConfigDict(extra="forbid")
    function: Any
    """`module:name` or `./file.py:name`; from Python also the object itself."""
    reference: str = "reference"
    """What the other side calls the task's reference: `answer`, `solution`, ..."""
    range: tuple[float, float] | None = None
    """The lowest and the highest score; a value outside is a failure. Unset allows any finite number, as
    the other libraries declare none."""
    deterministic: bool = False
    """Whether the same answer always gets the same score, so that scores may be cached."""

    @field_serializer("function")
    def _named(self, function: Any) -> str:
        return function if isinstance(function, str) else type(function).__qualname__

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range must rise: [lowest, highest], got {list(self.range)}")
        return self


class Foreign(Evaluator):
    """An evaluator of another library, found by name."""

    Config = ForeignConfig

    def __init__(self, **config: Any) -> None:
        """Raises pydantic.ValidationError, and ResolveError for a name that leads nowhere."""
        super().__init__(**config)
        given = self.config.function
        self.foreign: Any = resolve_object(given) if isinstance(given, str) else given
        self.range = self.config.range or (-math.inf, math.inf)
        self.deterministic = self.config.deterministic

    def functions(self) -> Iterable[Callable[..., Any]]:
        """The other side's code, for the fingerprint."""
        return [self.foreign]

    def settings(self) -> Any:
        """What else of the other side the fingerprint depends on."""
        return None

    def fingerprint(self) -> str:
        """Changes with the settings of both sides and with the code of the other side's functions."""
        code = [FunctionEvaluator(plain(function)).fingerprint() for function in self.functions()]
        told = (super().fingerprint(), code, self.settings())
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The `def` behind a partial, a decorated function or an object that can be called."""
    if isinstance(function, functools.partial):
        return plain(function.func)
    function = inspect.unwrap(function)
    return function if inspect.isroutine(function) else type(function).__call__


def asynchronous(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: an `async def`, a partial of one, an object whose call is one."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def required(function: Callable[..., Any], given: Iterable[str]) -> frozenset[str]:
    """The parameters of `function` without a default, beside those that are `given` to it anyway."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    needed = {p.name for p in parameters if p.kind in by_name and p.default is p.empty}
    return frozenset(needed - set(given))


def called(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """`function` with those of the `given` arguments that its signature names."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return function(**given)
    return function(**{name: value for name, value in given.items() if name in parameters})


def columns(rollout: Rollout, reference: str) -> dict[str, Any]:
    """The task's columns, its reference among them under the name the other side uses."""
    task = rollout.task
    return dict(task.metadata) if task.reference is None else {**task.metadata, reference: task.reference}


def answered(rollout: Rollout) -> tuple[Message, ...]:
    """Everything after the prompt."""
    return rollout.messages[len(rollout.task.messages) :]


def scored(value: float, reason: str | None, metrics: Mapping[str, float]) -> Score:
    """A score, or the failure of an instrument whose number is none."""
    if not math.isfinite(value):
        return Score.failed("bad_response", f"the score is {value}").stamped(metrics=metrics)
    return Score(float(value), reason=reason, metrics=metrics)


def library(module: str, package: str) -> Any:
    """A module of the other library. Raises UserError that names the package when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} cannot be imported ({error}); this needs: pip install {package}"
        ) from error

"""The contract for evaluators: a finished rollout goes in, a score comes out.

    class Near(Evaluator):
        requires = frozenset({"reference"})

        async def evaluate(self, rollout):
            try:
                return 1 / (1 + abs(float(rollout.text) - float(rollout.task.reference)))
            except ValueError:
                return Score(0.0, reason="not a number")

    @evaluator
    def exact(text, reference):
        return text.strip() == reference

Whose fault decides what happens. The model's fault is a low score with a reason. The instrument's fault
(raise `EvaluatorError`, or return `Score.skip`) is masked: no number, no gradient. Any other exception is
the author's bug: masked too, and the run stops after a few.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Union, overload

from pydantic import BaseModel

from rft.environment import NoConfig
from rft.types import Rollout, Score

Verdict = Union[Score, float, int, bool, Mapping[str, float]]
"""What `evaluate` may return. A mapping needs the key "score"; its other keys become metrics."""


@dataclass(frozen=True)
class Limits:
    """How hard an evaluator may be driven.

    >>> Limits(concurrency=8, timeout_s=5).deadline_s
    120.0
    """

    concurrency: int = 64
    rpm: int | None = None
    timeout_s: float = 30.0
    """Seconds for one attempt."""
    deadline_s: float = 120.0
    """Seconds for all attempts together."""
    max_usd: float | None = None


@dataclass(frozen=True)
class Case:
    """A golden case: an answer whose score is known. Cases travel with the evaluator.

    >>> Case(prompt="2+2?", completion="4", reference="4", expect=1.0).expect
    1.0
    """

    prompt: str
    completion: str
    expect: float | tuple[float, float] | Literal["unscored"]
    """The exact score, an interval it must fall into, or "unscored"."""
    reference: Any = None
    fields: Mapping[str, Any] | None = None


class Evaluator:
    """Subclass it and define `evaluate`. See the module docstring for the rules of fault."""

    Config: ClassVar[type[BaseModel]] = NoConfig
    """The recipe's `with:` block, validated before a model loads."""

    name: str = ""
    """Shown in tables; the class's name when empty."""
    version: str = "0"
    range: tuple[float, float] = (0.0, 1.0)
    """A value outside is a failure of kind `bad_response`, never clipped."""
    requires: frozenset[str] = frozenset()
    """Task fields it reads; checked on the data before anything loads."""
    deterministic: bool = True
    """Permits caching."""
    execution: Literal["async", "thread", "process"] = "async"
    limits: Limits = Limits()
    cases: Sequence[Case] | str = ()

    def __init__(self, **config: Any) -> None:
        """Validates `config` against the class's `Config`. Raises pydantic.ValidationError."""
        self.config: Any = self.Config(**config)
        if not self.name:
            self.name = type(self).__name__

    async def setup(self) -> None:
        """Called once before the first evaluation."""

    async def evaluate(self, rollout: Rollout) -> Verdict:
        """Scores one finished rollout. May be a plain `def`, which then runs in a thread."""
        raise NotImplementedError(f"{type(self).__name__} must define `evaluate(self, rollout)`")

    async def close(self) -> None:
        """Called once after the last evaluation."""

    def fingerprint(self) -> str:
        """16 hex digits that change when the evaluator's code, version or configuration changes."""
        try:
            source = inspect.getsource(type(self))
        except (OSError, TypeError):  # defined in a console or built at run time
            source = type(self).__qualname__
        return _digest(source, self.version, self.config.model_dump(mode="json"))


class FunctionEvaluator(Evaluator):
    """A plain function as an evaluator; arguments are injected by name.

    Known names: `text`, `rollout`, `task`, `reference`, `prompt` (the prompt's last message), `messages`,
    and any field of the task. Keyword arguments with a default are configuration (`with:` in a recipe).
    """

    _known = frozenset({"text", "rollout", "task", "reference", "prompt", "messages"})

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.function = function
        self.parameters = inspect.signature(function).parameters
        self.bound: dict[str, Any] = {}
        self.name = function.__name__
        for key, value in options.items():
            if key not in ("name", "version", "range", "requires", "deterministic", "execution", "limits", "cases"):
                raise TypeError(f"@evaluator got an unknown option {key!r}")
            setattr(self, key, value)
        super().__init__()
        needed = {
            name
            for name, parameter in self.parameters.items()
            if parameter.default is parameter.empty
            and (name == "reference" or name not in self._known)
            and parameter.kind is not parameter.VAR_KEYWORD
        }
        self.requires = frozenset(self.requires) | needed
        functools.update_wrapper(self, function)

    def configured(self, **config: Any) -> FunctionEvaluator:
        """A copy with keyword arguments fixed. Raises TypeError for a name the function lacks."""
        for key in config:
            if key not in self.parameters:
                raise TypeError(f"{self.name} takes no argument {key!r}; it has {sorted(self.parameters)}")
        twin = FunctionEvaluator.__new__(FunctionEvaluator)
        twin.__dict__.update(self.__dict__)
        twin.bound = {**self.bound, **config}
        twin.requires = self.requires - set(config)
        return twin

    def evaluate(self, rollout: Rollout) -> Any:  # type: ignore[override]  # sync functions are allowed
        """Calls the function with what its signature names."""
        task = rollout.task
        have: dict[str, Any] = {
            **task.metadata,
            "text": rollout.text,
            "rollout": rollout,
            "task": task,
            "reference": task.reference,
            "prompt": task.messages[-1].content,
            "messages": rollout.messages,
            **self.bound,
        }
        if any(p.kind is p.VAR_KEYWORD for p in self.parameters.values()):
            return self.function(**have)
        return self.function(**{name: have[name] for name in self.parameters if name in have})

    def fingerprint(self) -> str:
        """See `Evaluator.fingerprint`; here the function's source counts."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            source = self.function.__qualname__
        return _digest(source, self.version, self.bound)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The plain function, unchanged."""
        return self.function(*args, **kwargs)


@overload
def evaluator(function: Callable[..., Any], /) -> FunctionEvaluator: ...
@overload
def evaluator(**options: Any) -> Callable[[Callable[..., Any]], FunctionEvaluator]: ...
def evaluator(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Makes a function an evaluator: `@evaluator` or `@evaluator(range=(-1, 1), name="tone")`."""
    if function is not None:
        return FunctionEvaluator(function, **options)
    return lambda inner: FunctionEvaluator(inner, **options)


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

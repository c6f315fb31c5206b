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
from types import CodeType
from typing import Any, ClassVar, Literal, overload

from pydantic import BaseModel

from rft.environment import NoConfig
from rft.types import Rollout, Score

Verdict = Score | float | int | bool | Mapping[str, float]
"""What `evaluate` may return. A mapping needs the key "score"; its other keys become metrics."""

Resolve = Callable[[str, Mapping[str, Any]], "Evaluator"]
"""From a name and its `with:` block, as a recipe has them, to an evaluator."""


@dataclass(frozen=True)
class Limits:
    """How hard an evaluator may be driven.

    >>> Limits(concurrency=8, timeout_s=5).deadline_s
    120.0
    """

    concurrency: int = 64
    """Evaluations in flight together."""
    rpm: int | None = None
    """Attempts begun per minute, evenly spaced."""
    timeout_s: float = 30.0
    """Seconds for one attempt."""
    deadline_s: float = 120.0
    """Seconds for all attempts and the pauses between them; waiting for a free slot does not count."""
    attempts: int = 4
    """Tries per rollout, the first included. Only failures that say so are tried again."""
    backoff_s: float = 0.5
    """The pause before the n-th retry is drawn from 0 to backoff_s * 2**(n-1) seconds, at most 20."""
    max_usd: float | None = None
    """Spent (by `Score.cost`), every further evaluation fails with kind `budget`."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "timeout_s", "deadline_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Limits.{name} must be more than 0, got {getattr(self, name)!r}")
        if self.rpm is not None and self.rpm <= 0:
            raise ValueError(f"Limits.rpm must be more than 0 (or None for no limit), got {self.rpm!r}")
        if self.backoff_s < 0:
            raise ValueError(f"Limits.backoff_s must not be negative, got {self.backoff_s!r}")


@dataclass(frozen=True)
class Case:
    """A golden case: an answer whose score is known. Cases travel with the evaluator.

    >>> case = Case(prompt="2+2?", completion="4", reference="4", expect=1.0)
    >>> case.holds(Score(1.0)), case.holds(Score(0.5)), case.holds(Score.skip("no gold answer"))
    (True, False, False)
    """

    prompt: str
    completion: str
    expect: float | tuple[float, float] | Literal["unscored"]
    """The exact score, an interval it must fall into, or "unscored"."""
    reference: Any = None
    fields: Mapping[str, Any] | None = None
    """The task's other columns."""
    config: Mapping[str, Any] | None = None
    """The `with:` block this case is about; None is the defaults."""

    def holds(self, score: Score) -> bool:
        """Whether the score is as expected (an exact value to within 1e-6)."""
        if score.value is None or self.expect == "unscored":
            return not score.ok and self.expect == "unscored"
        low, high = self.expect if isinstance(self.expect, tuple) else (self.expect, self.expect)
        return low - 1e-6 <= score.value <= high + 1e-6


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
    """The same rollout always gets the same score."""
    execution: Literal["async", "thread"] = "async"
    """`async`: an `async def evaluate` shares the event loop, a plain `def` gets a thread. `thread`: an
    `async def` gets a thread and a loop of its own too, for code that blocks now and then."""
    limits: Limits = Limits()
    cases: Sequence[Case] = ()

    config: Any = None
    """The validated `Config`."""

    def __init__(self, **config: Any) -> None:
        """Validates `config` against the class's `Config`. Raises pydantic.ValidationError."""
        self.config = self.Config(**config)
        if not self.name:
            self.name = type(self).__name__

    @classmethod
    def from_recipe(cls, options: Mapping[str, Any], resolve: Resolve) -> Evaluator:
        """Makes one from a recipe's `with:` block. Composites resolve the evaluators named inside it."""
        return cls(**options)

    async def setup(self) -> None:
        """Called once before the first evaluation."""

    async def evaluate(self, rollout: Rollout) -> Verdict:
        """Scores one finished rollout. May be a plain `def`, which then runs in a thread."""
        raise NotImplementedError(f"{type(self).__name__} must define `evaluate(self, rollout)`")

    def settle(self, scores: Sequence[Score]) -> Sequence[Score]:
        """Makes one prompt's scores comparable once all are in; same length and order.

        Only composites need it: a part that failed for one member must not count for the others.
        """
        return scores

    async def close(self) -> None:
        """Called once after the last evaluation."""

    @property
    def is_async(self) -> bool:
        """Whether `evaluate` is a coroutine function, so that it can share the event loop."""
        return inspect.iscoroutinefunction(self.evaluate)

    def fingerprint(self) -> str:
        """16 hex digits that change when the evaluator's code, version or configuration changes.

        The code is that of the class and of its bases; functions it calls elsewhere are not followed.
        """
        own = type(self).__mro__
        code = [_source(base) for base in own[: own.index(Evaluator)]]
        config = self.config.model_dump(mode="json") if self.config is not None else None
        return _digest(code, self.version, config)


class FunctionEvaluator(Evaluator):
    """A plain function as an evaluator; arguments are injected by name.

    Known names: `text`, `rollout`, `task`, `reference`, `prompt` (the prompt's last message), `messages`,
    and any field of the task. Keyword arguments with a default are configuration (`with:` in a recipe).
    """

    _known = frozenset({"text", "rollout", "task", "reference", "prompt", "messages"})
    _options = frozenset(
        {"name", "version", "range", "requires", "deterministic", "execution", "limits", "cases"}
    )

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.function = function
        self.parameters = inspect.signature(function).parameters
        self.bound: dict[str, Any] = {}
        self.name = function.__name__
        for key, value in options.items():
            if key not in self._options:
                known = ", ".join(sorted(self._options))
                raise TypeError(f"@evaluator has no option {key!r}; it has {known}")
            setattr(self, key, value)
        super().__init__()
        needed = {
            name
            for name, parameter in self.parameters.items()
            if parameter.default is parameter.empty
            and (name == "reference" or name not in self._known)
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
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

    def evaluate(self, rollout: Rollout) -> Any:
        """Calls the function with what its signature names."""
        task = rollout.task
        have: dict[str, Any] = {
            **task.metadata,
            "text": rollout.text,
            "rollout": rollout,
            "task": task,
            "prompt": task.messages[-1].content,
            "messages": rollout.messages,
        }
        if task.reference is not None:  # absent, a default in the signature holds
            have["reference"] = task.reference
        have.update(self.bound)
        if any(p.kind is p.VAR_KEYWORD for p in self.parameters.values()):
            return self.function(**have)
        return self.function(**{name: have[name] for name in self.parameters if name in have})

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self.function)

    def fingerprint(self) -> str:
        """See `Evaluator.fingerprint`; here the function's code counts."""
        return _digest(_source(self.function), self.version, self.bound)

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


def _source(thing: Any) -> str:
    """The source text of a class or function, or what its byte code says where there is no file."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # defined in a console or notebook, or built at run time
        functions = vars(thing).items() if isinstance(thing, type) else [(thing.__name__, thing)]
        return repr([(name, _byte_code(f.__code__)) for name, f in functions if inspect.isfunction(f)])


def _byte_code(code: CodeType) -> tuple[Any, ...]:
    """What distinguishes two functions, without line numbers and memory addresses."""
    constants = [
        _byte_code(c)
        if isinstance(c, CodeType)
        else repr(sorted(map(repr, c)) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]
    return code.co_code.hex(), code.co_names, constants


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

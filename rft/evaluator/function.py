"""`@evaluator`: a plain function is an evaluator too."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any, overload

from rft.evaluator.base import Evaluator
from rft.evaluator.code import digest, source
from rft.types import Rollout


class FunctionEvaluator(Evaluator):
    """A plain function as an evaluator; arguments are injected by name.

    Known names: `text`, `rollout`, `task`, `reference`, `prompt` (the prompt's last message), `messages`,
    and any field of the task. Keyword arguments with a default are configuration (`with:` in a recipe).
    """

    _known = frozenset({"text", "rollout", "task", "reference", "prompt", "messages"})
    _options = frozenset(
        {
            *("name", "version", "range", "requires", "deterministic", "execution", "origin", "limits"),
            *("cases", "blind_to"),
        }
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

    def __reduce__(self) -> Any:
        """Pickles its function by name where the name leads to the decorated one, as decorating leaves it."""
        function = self.function
        found = _named(function)
        by_name = isinstance(found, FunctionEvaluator) and found.function is function
        by_name = by_name and function.__module__ != "__main__"  # another one in another process
        told = {key: value for key, value in vars(self).items() if key not in _OF_THE_FUNCTION}
        whose = (function.__module__, function.__qualname__) if by_name else function
        return _restored, (whose, told)

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
        return digest(source(self.function), self.version, self.bound)

    def _code(self) -> Any:
        return self.function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The plain function, unchanged."""
        return self.function(*args, **kwargs)


_OF_THE_FUNCTION = {"function", "parameters", *functools.WRAPPER_ASSIGNMENTS, "__wrapped__"}


def _named(function: Callable[..., Any]) -> Any:
    """What a function's name leads to, in the module that it says it is from."""
    try:
        return attrgetter(function.__qualname__)(sys.modules[function.__module__])
    except (AttributeError, KeyError):
        return None


def _restored(whose: Any, told: dict[str, Any]) -> FunctionEvaluator:
    """A pickled function evaluator, from the function or from where to find it."""
    if isinstance(whose, tuple):
        module, name = whose
        whose = attrgetter(name)(importlib.import_module(module)).function
    made = FunctionEvaluator(whose)
    vars(made).update(told)
    return made


@overload
def evaluator(function: Callable[..., Any], /) -> FunctionEvaluator: ...
@overload
def evaluator(**options: Any) -> Callable[[Callable[..., Any]], FunctionEvaluator]: ...
def evaluator(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Makes a function an evaluator: `@evaluator` or `@evaluator(range=(-1, 1), name="tone")`."""
    if function is not None:
        return FunctionEvaluator(function, **options)
    return lambda inner: FunctionEvaluator(inner, **options)

"""A rubric of the verifiers library, as an evaluator.

    evaluator:
      use: verifiers
      with:
        function: ./grading.py:rubric       # a Rubric, an environment, or a function that makes one
        reference: answer

Rubrics are those of verifiers 0.1 and of `verifiers.legacy` in 0.3; where 0.4 has tasks with rewards instead,
the same `use: verifiers` takes the task class (`verifiers_task`). `Rubric.score_rollout` is not called: it
logs what a reward function raises and goes on with 0.0. The functions are called here, by the same names, and
what they raise is attributed.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_origin

from rft.adapters._foreign import Foreign, answered, asynchronous, called, columns, required
from rft.errors import ResolveError
from rft.evaluator import Evaluator, GroupEvaluator, Resolve
from rft.types import Message, Rollout, Score

_PLURAL = frozenset({"states", "prompts", "completions", "answers", "tasks", "infos"})


class Verifiers(Foreign):
    """The weighted sum of a verifiers rubric, or of a verifiers task's rewards.

    Each function's value is a metric. None from one of them skips the sample.

    Cannot carry over: what a function itself turns into 0.0 (`MathRubric` does on its own time limit);
    `state` fields of a live run (client, sampling arguments, timing), trajectories and their rewards;
    environment-owned objects that a rubric gets from its environment while that runs.
    """

    name = "verifiers"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.rubrics = list(_rubrics(self.foreign, self.config.function))
        if not list(self.functions()):
            raise ResolveError(f"{self.config.function!r} has no reward functions")
        if self.entry == "evaluate" and any(map(_compares, self.functions())):
            raise ResolveError(f"{self.config.function!r} has functions of a group; use VerifiersGroup")

    @classmethod
    def from_recipe(cls, options: Mapping[str, Any], resolve: Resolve) -> Evaluator:
        """See `Evaluator.from_recipe`. What is named decides: a task, a rubric, one that compares."""
        from rft.adapters.verifiers_task import VerifiersTask, is_task

        named = Foreign(**options)
        if is_task(named.foreign):
            return VerifiersTask(**options)
        compares = any(_compares(f) for rubric in _rubrics(named.foreign, "") for f in rubric.funcs)
        return VerifiersGroup(**options) if compares else cls(**options)

    def functions(self) -> Iterable[Callable[..., Any]]:
        """All reward functions of the rubric and of those inside it."""
        return [function for rubric in self.rubrics for function in rubric.funcs]

    def settings(self) -> Any:
        """The functions' weights."""
        return [list(rubric.weights) for rubric in self.rubrics]

    async def evaluate(self, rollout: Rollout) -> Any:
        """The weighted sum over the functions."""
        return (await self._scored([rollout]))[0]

    async def _scored(self, rollouts: Sequence[Rollout]) -> list[Any]:
        states = [_state(rollout, self.config.reference) for rollout in rollouts]
        found: list[list[tuple[str, float, Any]]] = [[] for _ in states]  # (function, weight, value)
        for rubric in self.rubrics:
            for function, weight in zip(rubric.funcs, rubric.weights, strict=True):
                values = await _values(rubric, function, states)
                for per_state, value in zip(found, values, strict=True):
                    per_state.append((getattr(function, "__name__", repr(function)), weight, value))
        return [_summed(per_state) for per_state in found]


class VerifiersGroup(Verifiers, GroupEvaluator):
    """A rubric with functions that see all completions of a prompt (`completions`, `states`, ...)."""

    async def evaluate_group(self, rollouts: Sequence[Rollout]) -> list[Any]:
        """The weighted sums over the functions."""
        return await self._scored(rollouts)


def _rubrics(thing: Any, name: str) -> Iterator[Any]:
    """The rubrics in a rubric, a group of them, an environment, or what a function makes."""
    if callable(thing) and not hasattr(thing, "funcs") and not required(thing, ()):
        thing = _made(thing)
    thing = getattr(thing, "rubric", thing)
    if not (hasattr(thing, "funcs") and hasattr(thing, "weights")):
        raise ResolveError(
            f"{name!r} is a {type(thing).__name__}; a verifiers Rubric is needed, an environment that has "
            "one, a function that makes one, or a Task class with rewards"
        )
    for inner in getattr(thing, "rubrics", ()):
        yield from _rubrics(inner, name)
    if thing.funcs:
        yield thing


@functools.cache
def _made(factory: Callable[[], Any]) -> Any:
    """What it makes, once: an environment may load its data."""
    return factory()


def _compares(function: Callable[..., Any]) -> bool:
    """Whether verifiers calls it once for a group: plural parameters, or it says that it returns a list."""
    signature = inspect.signature(function)
    returns = signature.return_annotation  # a text where annotations are postponed
    listed = returns is list or get_origin(returns) is list or str(returns).startswith("list[")
    return bool(_PLURAL & set(signature.parameters)) or listed


async def _values(
    rubric: Any, function: Callable[..., Any], states: Sequence[dict[str, Any]]
) -> Sequence[Any]:
    if not _compares(function):
        return await asyncio.gather(*(_call(function, _objects(rubric, state)) for state in states))
    given = {f"{name}s": [state.get(name) for state in states] for name in ("prompt", "completion", "answer")}
    given |= {f"{name}s": [state.get(name) for state in states] for name in ("task", "info")}
    given |= {"states": list(states), **getattr(rubric, "class_objects", {})}
    values = await _call(function, given)
    if len(values) != len(states):
        raise ValueError(f"{function!r} returned {len(values)} values for {len(states)} completions")
    return list(values)


def _objects(rubric: Any, state: dict[str, Any]) -> dict[str, Any]:
    """What a function may ask for by name. The rubric's own method where it has one: subclasses add to it."""
    if hasattr(rubric, "score_objects"):
        return dict(rubric.score_objects(state))
    asked = {name: state.get(name) for name in ("prompt", "completion", "answer", "task", "info")}
    return {**state["input"], **asked, "state": state, **getattr(rubric, "class_objects", {})}


async def _call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """The function's value; a plain one runs in a thread, so that it holds up nobody."""
    if asynchronous(function):
        return await called(function, given)
    value = await asyncio.to_thread(called, function, given)
    return await value if inspect.isawaitable(value) else value


def _summed(found: Sequence[tuple[str, float, Any]]) -> Any:
    missing = [name for name, weight, value in found if value is None and weight != 0]
    metrics = {name: float(value) for name, _, value in found if value is not None}
    if missing:
        return Score.skip(f"{missing[0]} returned None").stamped(metrics=metrics)
    total = math.fsum(weight * float(value) for _, weight, value in found if value is not None)
    return {**metrics, "score": total}


class _Said(dict[str, Any]):
    """A message as rubrics of any version read one: `message["content"]` and `message.content`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _said(messages: Iterable[Message]) -> list[_Said]:
    return [_Said(message.to_dict()) for message in messages]


def _state(rollout: Rollout, reference: str) -> dict[str, Any]:
    """A finished rollout's state, in the names that reward functions read."""
    row = columns(rollout, reference)
    prompt = rollout.task.prompt
    asked = {
        "prompt": prompt if isinstance(prompt, str) else _said(prompt),
        "answer": row.get("answer", rollout.task.reference if rollout.task.reference is not None else ""),
        "info": row.get("info", {}),
        "example_id": row.get("example_id", rollout.task.id),
        "task": row.get("task", "default"),
    }
    completion = rollout.text if isinstance(prompt, str) else _said(answered(rollout))
    ended = {"is_completed": True, "is_truncated": rollout.truncated, "stop_condition": rollout.stop}
    return {
        **row,
        **asked,
        "completion": completion,
        "input": {**row, **asked},
        "trajectory": [],
        "metrics": {},
        "reward": None,
        **ended,
    }

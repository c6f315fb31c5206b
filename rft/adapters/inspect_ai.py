"""A scorer of Inspect (inspect_ai), as an evaluator.

    evaluator:
      use: inspect
      with:
        function: inspect_ai.scorer:includes
        arguments: {ignore_case: true}

The rollout becomes a real `TaskState`, the reference a `Target`. Values are read as `value_to_float` reads
them (C, P, I and N are 1, 0.5, 0 and 0), except that one it cannot read is a failure, where it gives 0.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import Field

from rft.adapters._foreign import Foreign, ForeignConfig, answered, library, scored
from rft.errors import EvaluatorError, ResolveError
from rft.types import Message, Rollout, Score

_PACKAGE = "inspect-ai"
_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


class _Config(ForeignConfig):
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Of the function that makes the scorer."""
    key: str | None = None
    """Which entry is the score, for a scorer that gives several values; the others are metrics."""


class Inspect(Foreign):
    """What a scorer of Inspect gives, with its explanation as the reason.

    None and `Score.unscored` are skipped.

    Cannot carry over: what exists only while Inspect runs a task (model roles, `sandbox()`, limits, the
    solver's `choices`), so a scorer that asks Inspect's models must name its model; images and audio;
    metrics and reducers over epochs. The state's model is called `policy`.
    """

    Config = _Config
    name = "inspect"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        if not callable(self.foreign):
            raise ResolveError(
                f"{self.config.function!r} is no function; a scorer is needed, or what makes one"
            )
        self.scorer = self.foreign if _scores(self.foreign) else self._made()
        if not (callable(self.scorer) and _scores(self.scorer)):
            raise ResolveError(f"{self.config.function!r} gives no scorer: no function of (state, target)")
        self.requires = frozenset({"reference"})

    def _made(self) -> Any:
        try:
            return self.foreign(**self.config.arguments)
        except TypeError as error:
            told = f"cannot make a scorer of the arguments {self.config.arguments}: {error}"
            raise ResolveError(f"{self.config.function!r} {told}") from error

    async def setup(self) -> None:
        """Raises UserError without the library."""
        library("inspect_ai.solver", _PACKAGE)

    def functions(self) -> Iterable[Callable[..., Any]]:
        """The scorer, and what makes it."""
        return [self.scorer, self.foreign]

    async def evaluate(self, rollout: Rollout) -> Any:
        """The scorer's verdict."""
        verdict = await self.scorer(_state(rollout), _target(rollout.task.reference))
        if verdict is None:
            return Score.skip("the scorer returned None")
        value, metrics = _picked(verdict.value, self.config.key)
        number = _number(value)
        if math.isnan(number):
            why = getattr(verdict, "reason", None) or verdict.explanation or "the scorer left it unscored"
            return Score.skip(str(why)).stamped(metrics=metrics)
        return scored(number, verdict.explanation, metrics)


def _scores(thing: Any) -> bool:
    """Whether it is a scorer, rather than a function that makes one."""
    return list(inspect.signature(thing).parameters)[:2] == ["state", "target"]


def _picked(value: Any, key: str | None) -> tuple[Any, dict[str, float]]:
    """The value that counts, and the others as metrics."""
    if isinstance(value, Mapping):
        if key not in value:
            known = ", ".join(map(str, value))
            raise ValueError(f"the scorer gives several values ({known}); key: says which is the score")
        rest = {name: _number(one) for name, one in value.items() if name != key and one is not None}
        return value[key], {name: number for name, number in rest.items() if math.isfinite(number)}
    if isinstance(value, list | tuple):
        raise ValueError("the scorer gives a list of values; one that gives a number or a mapping is needed")
    return value, {}


def _number(value: Any) -> float:
    """As Inspect reads a value, NaN for unscored. Raises EvaluatorError for what it cannot read."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        known = _GRADES.get(value, _WORDS.get(value.lower()))
        if known is not None:
            return known
    try:
        return float(value)
    except (TypeError, ValueError):
        raise EvaluatorError("bad_response", f"the scorer gave {value!r}, which is no score") from None


def _state(rollout: Rollout) -> Any:
    model = library("inspect_ai.model", _PACKAGE)
    solver = library("inspect_ai.solver", _PACKAGE)
    task = rollout.task
    asked = task.prompt if isinstance(task.prompt, str) else [_message(model, m) for m in task.messages]
    said = [m for m in answered(rollout) if m.role == "assistant"]
    stop = "max_tokens" if rollout.truncated else "stop"
    output = model.ModelOutput.from_content("policy", rollout.text, stop)
    if said:
        output.choices[0].message = _message(model, said[-1])
    return solver.TaskState(
        model=model.ModelName("none/policy"),
        sample_id=task.id,
        epoch=1,
        input=asked,
        messages=[_message(model, message) for message in rollout.messages],
        target=_target(task.reference),
        output=output,
        completed=True,
        metadata=dict(task.metadata),
    )


def _target(reference: Any) -> Any:
    target = library("inspect_ai.scorer", _PACKAGE).Target
    if isinstance(reference, list | tuple):
        return target([_text(one) for one in reference])
    return target(_text(reference))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _message(model: Any, message: Message) -> Any:
    if message.role == "assistant":
        calls = [_tool_call(call) for call in message.tool_calls] or None
        return model.ChatMessageAssistant(content=message.content, model="policy", tool_calls=calls)
    if message.role == "tool":
        return model.ChatMessageTool(
            content=message.content, tool_call_id=message.tool_call_id, function=message.name
        )
    kind = model.ChatMessageSystem if message.role == "system" else model.ChatMessageUser
    return kind(content=message.content)


def _tool_call(call: Mapping[str, Any]) -> Any:
    function = call.get("function", {})
    wrong = None
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError as error:  # the model's doing; Inspect has a field for it
        arguments, wrong = {}, str(error)
    kind = library("inspect_ai.tool", _PACKAGE).ToolCall
    return kind(
        id=call.get("id", ""), function=function.get("name", ""), arguments=arguments, parse_error=wrong
    )

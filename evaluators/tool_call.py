"""Function calling: the right tools with the right arguments."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import NotJSON, json_of, same_json
from rft.types import Rollout, Score

_TAGGED = re.compile(r"<tool_call>([^<]*(?:<(?!/?tool_call>)[^<]*)*)</tool_call>")
_MOST = 64
_LONGEST = 20_000
_PARIS = [{"name": "weather", "arguments": {"city": "Paris", "days": 3}}]
_BOTH = [*_PARIS, {"name": "time", "arguments": {"zone": {"any_of": ["CET", "Europe/Paris"]}}}]


@dataclass(frozen=True)
class _Call:
    name: str
    arguments: Mapping[str, Any]


class ToolCall(Evaluator):
    """The share of calls that are right: over those wanted or those made, whichever are more.

    Calls are read from the last assistant message's `tool_calls`; where it has none, from its text: JSON
    (`{"name": ..., "arguments": {...}}`, one or a list), the same inside <tool_call> tags, or Python calls
    with keyword arguments (`weather(city="Paris")`, or a list of them).
    The reference is a call or a list of calls in the JSON form; [] means that none should be made, and then
    any answer in words is right. An argument in it may be {"any_of": [...]}, and {"optional": value} may be
    left out. `ordered: true` compares by position; `partial: true` gives a call with the right name the share
    of its arguments that are right.

    Cannot see: values that mean the same in other spelling ("NYC"), what a tool would have answered, or calls
    in earlier turns.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        ordered: bool = False
        partial: bool = False

    name = "tool_call"
    requires = frozenset({"reference"})
    cases = (
        Case("?", '{"name": "weather", "arguments": {"city": "Paris", "days": 3}}', 1.0, _PARIS),
        Case(
            "?", '{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\", \\"days\\": 3}"}', 1.0, _PARIS
        ),
        Case(
            "?",
            'I look.\n<tool_call>{"name": "weather", "arguments": {"days": 3, "city": "Paris"}}</tool_call>',
            1.0,
            _PARIS,
        ),
        Case("?", 'weather(city="Paris", days=3)', 1.0, json.dumps(_PARIS)),
        Case("?", '[time(zone="CET"), weather(city="Paris", days=3)]', 1.0, _BOTH),
        Case("?", '[time(zone="CET"), weather(city="Paris", days=3)]', 0.0, _BOTH, config={"ordered": True}),
        Case("?", '[weather(city="Paris", days=3), time(zone="CET")]', 1.0, _BOTH, config={"ordered": True}),
        Case("?", 'weather(city="Paris", days=3)', 0.5, _BOTH),
        Case("?", '[weather(city="Paris", days=3), weather(city="Rome", days=3)]', 0.5, _PARIS),
        Case("?", 'weather(city="Rome", days=3)', 0.0, _PARIS),
        Case("?", 'weather(city="Rome", days=3)', 0.5, _PARIS, config={"partial": True}),
        Case("?", 'weather(city="Paris", days=3, unit="C")', 2 / 3, _PARIS, config={"partial": True}),
        Case("?", 'forecast(city="Paris", days=3)', 0.0, _PARIS, config={"partial": True}),
        Case("?", 'weather(city="Paris", days=True)', 0.0, _PARIS),
        Case("?", "f(x=1)", 1.0, {"name": "f", "arguments": {"x": 1, "y": {"optional": 2}}}),
        Case("?", "f(x=1, y=3)", 0.0, {"name": "f", "arguments": {"x": 1, "y": {"optional": 2}}}),
        Case("?", "I cannot know the weather.", 0.0, _PARIS),
        Case("?", "", 0.0, _PARIS),
        Case("?", "None of the tools fits.", 1.0, []),
        Case("?", "weather(city='Paris')", 0.0, []),
        Case("?", "", 0.0, []),
        Case("?", "weather()", "unscored", "weather in Paris"),
    )

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        reference = rollout.task.reference
        wanted = _calls(json_of(reference) if isinstance(reference, str) else reference)
        if wanted is None:
            return Score.skip("the reference is no list of calls")
        said = _said(rollout)
        if not wanted:
            right = not said and bool(rollout.text.strip())
            return Score(float(right), reason=None if right else f"{len(said)} calls where none was wanted")
        if len(said) > _MOST:
            return Score(0.0, reason=f"{len(said)} calls")
        credit = self._in_order(wanted, said) if self.config.ordered else self._in_any_order(wanted, said)
        total = max(len(wanted), len(said))
        return Score(credit / total, reason=f"{credit:g} of {total} calls right")

    def _in_order(self, wanted: Sequence[_Call], said: Sequence[_Call]) -> float:
        return sum(self._credit(one, other) for one, other in zip(wanted, said, strict=False))

    def _in_any_order(self, wanted: Sequence[_Call], said: Sequence[_Call]) -> float:
        """Each call made goes to one call wanted, so that the credit is the largest possible."""
        # Imported only here, so that `import rft.evaluators` stays quick.
        from scipy.optimize import linear_sum_assignment

        if not said:
            return 0.0
        credits = [[self._credit(one, other) for other in said] for one in wanted]
        pairs = zip(*linear_sum_assignment(credits, maximize=True), strict=True)
        return sum(credits[i][j] for i, j in pairs)

    def _credit(self, wanted: _Call, said: _Call) -> float:
        if wanted.name != said.name:
            return 0.0
        names = {
            name
            for name in wanted.arguments
            if name in said.arguments or not _optional(wanted.arguments[name])
        }
        right = sum(
            name in said.arguments and _fits(wanted.arguments[name], said.arguments[name]) for name in names
        )
        total = len(names | said.arguments.keys())
        if right == total:
            return 1.0
        return right / total if self.config.partial else 0.0


def _said(rollout: Rollout) -> list[_Call]:
    """The calls of the last assistant message; what cannot be read is no call."""
    answered = rollout.messages[len(rollout.task.messages) :]
    last = next((message for message in reversed(answered) if message.role == "assistant"), None)
    if last is not None and last.tool_calls:
        return _calls(last.tool_calls) or []
    text = rollout.text.strip()
    if "<tool_call>" in text:
        found = [_calls(json_of(inner)) for inner in _TAGGED.findall(text)]
        return [call for calls in found for call in calls or ()]
    value = json_of(text)
    return (_calls(value) or []) if value is not NotJSON else _python_calls(text)


def _calls(value: Any) -> list[_Call] | None:
    """Calls in the JSON form, with or without OpenAI's wrapping; None when it is anything else."""
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    calls = []
    for one in many:
        if isinstance(one, Mapping) and isinstance(one.get("function"), Mapping):
            one = one["function"]
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
            return None
        arguments = one.get("arguments", one.get("parameters", {}))
        arguments = json_of(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(arguments, Mapping):
            return None
        calls.append(_Call(one["name"], arguments))
    return calls


def _python_calls(text: str) -> list[_Call]:
    """Calls written as Python, read and never run; [] for anything else."""
    if len(text) > _LONGEST:
        return []
    try:
        tree = ast.parse(text, mode="eval").body
        nodes = tree.elts if isinstance(tree, (ast.List, ast.Tuple)) else [tree]
        return [_python_call(node) for node in nodes]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return []


def _python_call(node: ast.AST) -> _Call:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("not a call with keyword arguments")
    return _Call(
        ast.unparse(node.func), {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    )


def _optional(wanted: Any) -> bool:
    return isinstance(wanted, Mapping) and wanted.keys() == {"optional"}


def _fits(wanted: Any, said: Any) -> bool:
    if _optional(wanted):
        return _fits(wanted["optional"], said)
    if isinstance(wanted, Mapping) and wanted.keys() == {"any_of"}:
        return any(_fits(one, said) for one in wanted["any_of"])
    return same_json(wanted, said)

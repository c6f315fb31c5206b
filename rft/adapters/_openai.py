"""What OpenAI's graders are shown: `item` (the row), `sample` (the answer), `{{ item.x }}` filled from both.

Names are those of OpenAI's guide "Graders" (developers.openai.com/api/docs/guides/graders, sections
"Templating" and "Python graders"). A path that leads nowhere in `sample` is the model's doing (an answer that
is no JSON has no `output_json.team`); one that leads nowhere in `item` is a broken row. What is filled in is
never looked at for braces again, so an answer cannot reach into the row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft.types import Rollout

SAMPLE_NAMES = ("output_text", "output_json", "output_tools", "choices")
_BRACES = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*|\[\d+\])*")
_STEP = re.compile(r"[A-Za-z_][\w-]*|\d+(?=\])")


class Unanswered(Exception):
    """The answer lacks what a template asks for."""


class BrokenRow(Exception):
    """The row lacks what a template asks for."""


@dataclass(frozen=True)
class Template:
    """A text with `{{ item.x }}` and `{{ sample.output_json.y[0] }}` in it.

    Raises ValueError for any other expression in double braces.

    >>> Template("{{item.unit}}: {{ sample.output_text }}").fields
    frozenset({'unit'})
    """

    text: str

    def __post_init__(self) -> None:
        for expression in _BRACES.findall(self.text):
            _steps(expression)

    @property
    def fields(self) -> frozenset[str]:
        """The columns of the row that it reads."""
        paths = [_steps(expression) for expression in _BRACES.findall(self.text)]
        return frozenset(path[1] for path in paths if path[0] == "item") - {"messages"}

    def fill(self, rollout: Rollout) -> str:
        """The text for one rollout. Raises Unanswered or BrokenRow."""
        shown = {"item": item(rollout), "sample": sample(rollout)}
        return _BRACES.sub(lambda found: _text(_value(found.group(1), shown)), self.text)


def item(rollout: Rollout) -> dict[str, Any]:
    """The row: its columns by their names, `reference` among them, and the prompt as `messages`."""
    task = rollout.task
    row = {"messages": [message.to_dict() for message in task.messages], **task.metadata}
    return row if task.reference is None else {**row, "reference": task.reference}


def sample(rollout: Rollout) -> dict[str, Any]:
    """The answer, as OpenAI's graders see one. `output_json` is None when the text is not JSON."""
    said = [m for m in rollout.messages[len(rollout.task.messages) :] if m.role == "assistant"]
    last = said[-1].to_dict() if said else {"role": "assistant", "content": ""}
    calls = [dict(call) for call in said[-1].tool_calls] if said else []
    ended = "tool_calls" if calls else "length" if rollout.stop == "length" else "stop"
    try:
        parsed = json.loads(rollout.text)
    except (ValueError, RecursionError):
        parsed = None
    return {
        "output_text": rollout.text,
        "output_json": parsed,
        "output_tools": calls,
        "choices": [{"index": 0, "message": last, "finish_reason": ended}],
    }


def _steps(expression: str) -> list[str]:
    """`["sample", "output_json", "a", "0"]` from the inside of double braces."""
    path = expression.strip()
    if not _PATH.fullmatch(path):
        raise ValueError(f"{{{{{expression}}}}}: write {{{{ item.name }}}} or {{{{ sample.output_text }}}}")
    steps = _STEP.findall(path)
    if steps[0] not in ("item", "sample") or len(steps) < 2:
        raise ValueError(f"{{{{{expression}}}}}: only item.<column> and sample.<variable> can be filled in")
    if steps[0] == "sample" and steps[1] not in SAMPLE_NAMES:
        known = ", ".join(SAMPLE_NAMES)
        raise ValueError(f"{{{{{expression}}}}}: a sample has {known}; audio and images are not read")
    return steps


def _value(expression: str, shown: Mapping[str, Any]) -> Any:
    steps = _steps(expression)
    value: Any = shown
    for step in steps:
        try:
            value = value[int(step)] if _is_list(value) else value[step]
        except (KeyError, IndexError, TypeError, ValueError):
            missing = Unanswered if steps[0] == "sample" else BrokenRow
            told = "the answer" if steps[0] == "sample" else "the row"
            raise missing(f"{told} has no {'.'.join(steps)}") from None
    if value is None and steps == ["sample", "output_json"]:
        raise Unanswered("the answer is not JSON")
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

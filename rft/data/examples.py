"""Rows that hold answers: what `sft`, `dpo` and `kto` learn from, beside the prompt.

    sft   completion, or messages that end with an assistant's
    dpo   chosen, rejected
    kto   completion, label (true: good)

An answer is text, or a chat of one assistant message. It travels in the task's metadata under these names, as
text; nothing is guessed from other columns, so a missing one names the row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rft.data.rows import Row
from rft.errors import DataError
from rft.recipe.schema import ANSWERS, Examples, SourceSpec
from rft.types import Task

_LABELS = {"true": True, "1": True, "false": False, "0": False}  # as CSV and people write them


def part_answer(row: Row, spec: SourceSpec) -> Row:
    """A conversation that ends with an assistant's message: the message becomes the row's `completion`.

    Any other row comes back as it is.
    """
    value, name = row.value, spec.columns.get("messages", "messages")
    if isinstance(value, Task) or "completion" in value or "completion" in spec.columns:
        return row
    said = value.get(name)
    if not isinstance(said, Sequence) or isinstance(said, str) or not said:
        return row
    if not isinstance(said[-1], Mapping) or said[-1].get("role") != "assistant":
        return row
    return Row(row.where, {**value, name: list(said[:-1]), "completion": [said[-1]]})


def to_example(where: str, task: Task, kind: Examples) -> Task:
    """The task with its answers as text and its label as true or false. Raises DataError."""
    found: dict[str, Any] = {name: _answer(where, task, name, kind) for name in ANSWERS[kind]}
    if kind == "kto":
        found["label"] = _label(where, task)
    return Task(task.id, task.prompt, task.reference, {**task.metadata, **found})


def _answer(where: str, task: Task, name: str, kind: Examples) -> str:
    value = _given(where, task, name, kind)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]  # a chat of one message
    if isinstance(value, Mapping):
        if value.get("role") != "assistant" or value.get("tool_calls"):
            told = f"{name} must be one assistant message without tool calls"
            raise DataError(f"{where}: {told}, got {_shown(value)}")
        value = value.get("content")
    if not isinstance(value, str) or not value.strip():
        told = f"{name} must be text or a list of one assistant message, and not empty"
        raise DataError(f"{where}: {told}, got {_shown(value)}")
    return value


def _label(where: str, task: Task) -> bool:
    value = _given(where, task, "label", "kto")
    known = _LABELS.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if known is None:
        raise DataError(f"{where}: label must be true (a good answer) or false, got {_shown(value)}")
    return known


def _given(where: str, task: Task, name: str, kind: Examples) -> Any:
    value = task.metadata.get(name)
    if value is None:
        have = ", ".join(["prompt", *task.metadata])
        told = f"no {name}, which algorithm.kind: {kind} learns from; the row has {have}"
        raise DataError(f"{where}: {told}; map a column: `columns: {{{name}: ...}}`")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

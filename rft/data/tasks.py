"""One row -> one Task: column mapping, template, system message, id.

A row is never repaired in silence. A missing column, an empty prompt, a conversation that already ends with
an answer: each is an error that names the place and what the row does have.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from rft.data.rows import Row
from rft.errors import DataError
from rft.recipe.schema import SourceSpec
from rft.types import Message, Task

_OURS = ("prompt", "messages", "reference", "id")


def to_task(row: Row, spec: SourceSpec, index: int) -> Task:
    """The task in a row. A `Task` made by the user's own function passes as it is.

    Args:
        index: the row's number in its source, from 0; part of the id when the row has none.

    Raises DataError.
    """
    if isinstance(row.value, Task):
        if spec.columns or spec.template or spec.system:
            told = "columns, template and system are for rows that are mappings, but this is a Task already"
            raise DataError(f"{row.where}: {told}")
        return row.value
    values = _renamed(row.where, row.value, spec.columns)
    prompt = _prompt(row.where, values, spec)
    reference = values.get("reference")
    given_id = values.get("id")
    return Task(
        id=str(given_id) if given_id is not None else f"{_digest(prompt, reference)}-{index}",
        prompt=prompt,
        reference=reference,
        metadata={name: value for name, value in values.items() if name not in _OURS},
    )


def prompt_key(task: Task) -> str:
    """Equal exactly when two tasks ask the same: a hash of the prompt's content."""
    return _digest(task.prompt)


def missing_fields(task: Task, requires: Iterable[str]) -> list[str]:
    """The required fields that the task lacks or holds as null."""
    have = {**task.metadata, "reference": task.reference}
    return [name for name in sorted(requires) if have.get(name) is None]


def _renamed(where: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    for ours, theirs in columns.items():
        if theirs not in row:
            raise DataError(f"{where}: no column {theirs!r} for {ours}{_columns(theirs, row)}")
    values = {name: value for name, value in row.items() if name not in columns.values()}
    return {**values, **{ours: row[theirs] for ours, theirs in columns.items()}}


def _prompt(where: str, values: Mapping[str, Any], spec: SourceSpec) -> str | tuple[Message, ...]:
    raw = _raw_prompt(where, values, spec)
    if isinstance(raw, str):
        if not raw.strip():
            raise DataError(f"{where}: the prompt is empty")
        if not spec.chat:
            return raw
        raw = [{"role": "user", "content": raw}]
    messages = _messages(where, raw)
    if not spec.chat:
        raise DataError(f"{where}: the prompt is a list of messages, but chat is false")
    if spec.system is None:
        return messages
    if messages[0].role == "system":
        raise DataError(f"{where}: the row has a system message of its own; leave `system` unset")
    return (Message("system", spec.system), *messages)


def _raw_prompt(where: str, values: Mapping[str, Any], spec: SourceSpec) -> Any:
    if spec.template is not None:
        return _filled(where, spec.template, values)
    for name in ("prompt", "messages"):
        if values.get(name) is not None:
            return values[name]
    told = "no prompt: map a column (`columns: {prompt: ...}`) or write a `template`"
    raise DataError(f"{where}: {told}{_columns('prompt', values)}")


def _filled(where: str, template: str, values: Mapping[str, Any]) -> str:
    try:
        return template.format_map(values)
    except KeyError as error:
        name = str(error.args[0])
        raise DataError(f"{where}: the template asks for {name!r}{_columns(name, values)}") from error
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        told = "a template takes {column}; write {{ and }} for braces that stay"
        raise DataError(f"{where}: the template cannot be filled: {error}; {told}") from error


def _messages(where: str, raw: Any) -> tuple[Message, ...]:
    if not isinstance(raw, Iterable) or isinstance(raw, Mapping):
        told = f"the prompt must be text or a list of messages, got {type(raw).__name__}"
        raise DataError(f"{where}: {told}")
    try:
        messages = tuple(Message.from_dict(message) for message in raw)
    except (KeyError, ValueError, TypeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        told = "a message needs role and content"
        raise DataError(f"{where}: {told}: {said}") from error
    if not messages:
        raise DataError(f"{where}: the prompt holds no messages")
    if messages[-1].role == "assistant":
        told = "the prompt ends with an assistant message, so there is nothing left to answer"
        raise DataError(f"{where}: {told}")
    return messages


def _columns(wanted: str, row: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(wanted, list(row), 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} The row has {', '.join(map(str, row)) or 'no columns'}"


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Message) else str(value)

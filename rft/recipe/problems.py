"""What pydantic found, in words for the author of a recipe.

Used for the recipe itself and for the `with:` block of any evaluator or environment.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from rft.errors import Problem

_PLAIN = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be text",
    "list": "must be a list",
    "tuple": "must be a list",
    "dict": "must be a mapping",
    "model": "must be a mapping",
    "finite": "must be a finite number",
}


def from_pydantic(
    error: ValidationError, data: Any, prefix: str, nearest: Callable[[str], str | None]
) -> list[Problem]:
    """One Problem for each wrong key of `data`, the input that `error` is about.

    Args:
        prefix: dotted path of `data` itself, put before each key; empty for a whole recipe.
        nearest: from the dotted path of an unknown key to the known one probably meant.
    """
    found: dict[str, list[tuple[str, Any]]] = {}
    for item in error.errors(include_url=False):
        if item["type"] == "contradiction":  # see Recipe._fits_together
            for path, message in item["ctx"]["found"]:
                found.setdefault(path, []).append((message, _MISSING))
            continue
        where, value = _locate(item, data)
        path = ".".join(str(part) for part in (prefix, *where) if part != "")
        message = _message(item, path, nearest)
        if len(item["loc"]) > len(where) + 1:  # inside one branch of a union
            message = f"must be a list; each item {message}"
        found.setdefault(path, []).append((message, value))
    return [_problem(path, messages) for path, messages in found.items()]


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean 'x'?` for the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), 1, cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


_MISSING = object()


def _problem(path: str, messages: list[tuple[str, Any]]) -> Problem:
    # Several messages about one key are the branches of a union: any of them would do.
    first, *others = dict.fromkeys(message for message, _ in messages)
    text = " or ".join([first, *(other.removeprefix("must be ") for other in others)])
    value = messages[0][1]
    return Problem(path or "recipe", text, got=None if value is _MISSING else _show(value))


def _locate(item: Any, data: Any) -> tuple[list[str | int], Any]:
    """The path as far as it leads through `data` (pydantic appends names of union branches) and the value."""
    where: list[str | int] = []
    for part in item["loc"]:
        in_mapping = isinstance(data, dict) and part in data
        in_list = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if in_mapping or in_list:
            data = data[part]
        elif item["type"] == "missing":
            return [*where, part], _MISSING
        else:
            break
        where.append(part)
    return where, data


def _message(item: Any, path: str, nearest: Callable[[str], str | None]) -> str:
    kind: str = item["type"]
    if kind == "extra_forbidden":
        meant = nearest(path)
        return "unknown key" + (f"; did you mean {meant!r}?" if meant else "")
    if kind == "missing":
        return "required, but not given"
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind == "literal_error" and isinstance(item["input"], str):
        choices = [choice.strip("'") for choice in item["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return f"must be {item['ctx']['expected']}{did_you_mean(item['input'], choices)}"
    family = kind.split("_")[0]
    if family in _PLAIN and kind.endswith(("_type", "_parsing", "_from_float", "_number")):
        return _PLAIN[family]
    return str(item["msg"]).replace("Input should", "must").replace("should", "must")


def _show(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

"""A request's body by example, and a place in an answer by its path: what a recipe can say without code.

    {"answer": "{text}", "limits": {"max_fee": "{max_fee}"}}        result.scores.0

A text that is one placeholder becomes the value itself, number or list or whatever it is; in a longer text it
is written out. Replacing is done once: a placeholder in a model's answer stays what the model wrote.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import to_json, to_jsonable_python

from rft.types import Rollout

_PLACE = re.compile(r"\{(\w+)\}")
_AS_JSON: dict[str, Any] = {"inf_nan_mode": "null", "bytes_mode": "base64", "fallback": str}
_KNOWN = ("text", "prompt", "messages", "id")


def fill(template: Any, rollout: Rollout) -> Any:
    """The template with its placeholders filled. Raises KeyError for a field that the task lacks."""
    if isinstance(template, dict):
        return {key: fill(value, rollout) for key, value in template.items()}
    if isinstance(template, list):
        return [fill(value, rollout) for value in template]
    if not isinstance(template, str):
        return template
    if whole := _PLACE.fullmatch(template):
        return to_jsonable_python(_value(whole[1], rollout), **_AS_JSON)
    return _PLACE.sub(lambda found: _text(_value(found[1], rollout)), template)


def fields_in(template: Any) -> frozenset[str]:
    """The task fields that a template names."""
    if isinstance(template, dict | list):
        inner = template.values() if isinstance(template, dict) else template
        return frozenset().union(*map(fields_in, inner))
    return frozenset(_PLACE.findall(template)) - set(_KNOWN) if isinstance(template, str) else frozenset()


def at(answer: Any, path: str) -> Any:
    """What stands at a path of keys and list positions. Raises KeyError with the part that is missing."""
    here = answer
    for done, part in enumerate(path.split("."), start=1):
        try:
            here = here[int(part)] if isinstance(here, list) else here[part]
        except (LookupError, TypeError, ValueError):
            raise KeyError(".".join(path.split(".")[:done])) from None
    return here


def _value(name: str, rollout: Rollout) -> Any:
    if name == "text":
        return rollout.text
    if name == "prompt":
        return rollout.task.messages[-1].content
    if name == "messages":
        return [message.to_dict() for message in rollout.messages]
    return rollout.task.id if name == "id" else rollout.task.field(name)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value, **_AS_JSON).decode()

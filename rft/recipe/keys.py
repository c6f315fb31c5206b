"""Every key of the recipe as a table, and the nearest known key to a wrong one.

The table is read off the schema, so help can never fall behind it.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from rft.recipe.schema import Recipe, Section

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", dict: "mapping"}

OTHER_WORDS = {
    # What other tools, and people in a hurry, call our keys.
    "batch_size": "train.prompts_per_step",
    "per_device_train_batch_size": "train.prompts_per_step",
    "clip_range": "algorithm.epsilon",
    "dataset": "data.train",
    "gpu_memory": "engine.gpu_memory_utilization",
    "kl_coef": "algorithm.beta",
    "lora": "model.adapter",
    "lora_rank": "model.adapter.rank",
    "lr": "train.learning_rate",
    "max_completion_length": "rollout.max_new_tokens",
    "max_steps": "train.steps",
    "max_tokens": "rollout.max_new_tokens",
    "num_generations": "rollout.group_size",
    "reward": "evaluator",
    "reward_funcs": "evaluator",
    "save_steps": "train.checkpoint.every",
    "eval_steps": "eval.every",
}


class Key(NamedTuple):
    """One key of the recipe.

    >>> describe_keys("train.steps")[0].type
    'whole number > 0'
    """

    path: str
    type: str
    default: str
    """As YAML would have it; "required" when there is none."""
    doc: str


def describe_keys(prefix: str = "") -> list[Key]:
    """Every key below `prefix` (all when empty), in the order of the schema."""
    return [key for key in _all_keys() if not prefix or f"{key.path}.".startswith(f"{prefix}.")]


def nearest_key(path: str) -> str | None:
    """The known key most likely meant by the unknown dotted `path`; None when nothing is close.

    A key of that very name elsewhere in the recipe wins, then a habit from another tool, then a
    neighbour with a similar name, then a similar name anywhere.

    >>> nearest_key("steps"), nearest_key("train.stpes"), nearest_key("rollout.num_generations")
    ('train.steps', 'train.steps', 'rollout.group_size')
    """
    parent, _, name = path.rpartition(".")
    paths = [key.path for key in _all_keys()]
    namesakes = [known for known in paths if known.rpartition(".")[2] == name]
    if namesakes:
        return max(namesakes, key=lambda known: (_shared(known, path), -known.count(".")))
    if name in OTHER_WORDS:
        return OTHER_WORDS[name]
    beside = {known.rpartition(".")[2]: known for known in paths if known.rpartition(".")[0] == parent}
    deepest_first = sorted(reversed(paths), key=lambda known: -known.count("."))
    anywhere = {known.rpartition(".")[2]: known for known in deepest_first}
    for candidates, cutoff in ((beside, 0.6), (anywhere, 0.75)):
        close = difflib.get_close_matches(name, candidates, 1, cutoff)
        if close:
            return candidates[close[0]]
    return None


def section_of(annotation: Any) -> type[Section] | None:
    """The section inside a field's type, if it holds one: `AdapterSpec | None` -> `AdapterSpec`."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def fields_of(section: type[Section]) -> dict[str, FieldInfo]:
    """A section's fields by the name a recipe uses (`with`, not `with_`)."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


@cache
def _all_keys() -> tuple[Key, ...]:
    return tuple(_walk(Recipe, ""))


def _walk(section: type[Section], prefix: str) -> Iterator[Key]:
    for name, field in fields_of(section).items():
        path = f"{prefix}{name}"
        doc = " ".join((field.description or "").split())
        yield Key(path, _type(field.annotation, field.metadata), _default(field), doc)
        inner = section_of(field.annotation)
        if inner is not None:
            yield from _walk(inner, f"{path}.")


def _type(annotation: Any, constraints: Any = ()) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *found = args
        for one in found:  # Field(ge=...) carries its constraints in `metadata`
            constraints = [*constraints, *getattr(one, "metadata", [one])]
        return _type(base, constraints)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(arg, constraints) for arg in args)
    if origin is Literal:
        return " | ".join(map(str, args))
    if annotation is type(None):
        return "null"
    if origin is list:
        return f"list of {_type(args[0])}"
    if origin is tuple:
        return "[" + ", ".join(_type(arg) for arg in args) + "]"
    section = section_of(annotation)
    if section is not None:
        return f"section or its {section.shorthand}" if section.shorthand else "section"
    bounds = [
        f" {sign} {getattr(one, attribute):g}" for one in constraints for sign, attribute in _bounds(one)
    ]
    return _WORDS[origin or annotation] + " and".join(bounds)


def _bounds(constraint: Any) -> Iterator[tuple[str, str]]:
    for kind, sign, attribute in ((Gt, ">", "gt"), (Ge, ">=", "ge"), (Lt, "<", "lt"), (Le, "<=", "le")):
        if isinstance(constraint, kind):
            yield sign, attribute


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return str(getattr(value, value.shorthand)) if value.shorthand else ""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


def _shared(one: str, other: str) -> int:
    """Leading parts that two dotted paths have in common."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), 99)

"""Golden cases as rollouts, and which of them are about an evaluator as it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rft.errors import UserError
from rft.evaluator.base import Evaluator
from rft.evaluator.cases import Case
from rft.evaluator.function import FunctionEvaluator
from rft.types import Message, Rollout, Task


def own_cases(evaluator: Evaluator) -> list[Case]:
    """The golden cases that are about it as it is configured. Raises DataError for an unreadable file."""
    mine = evaluator.fingerprint()
    return [case for case in evaluator.golden() if _fingerprint_with(evaluator, case.config or {}) == mine]


def case_rollouts(case: Case, name: str) -> list[Rollout]:
    """One finished rollout for each of the case's completions, in a group called `name`."""
    asked = [{"role": "user", "content": case.prompt}] if isinstance(case.prompt, str) else case.prompt
    messages = tuple(one if isinstance(one, Message) else Message.from_dict(one) for one in asked)
    task = Task(name, messages, case.reference, dict(case.fields or {}))
    said = [case.completion] if isinstance(case.completion, str) else case.completion
    return [
        Rollout(f"{name}/{index}", name, task, (*messages, Message("assistant", text)))
        for index, text in enumerate(said)
    ]


def with_options(evaluator: Evaluator, options: Mapping[str, Any]) -> Evaluator:
    """A twin with these options instead of its own; options that have no default stay as they are.

    Without any, one that cannot be made without options (where is its service?) is meant as it is.
    Raises ValueError (pydantic's) or TypeError for options that do not fit.
    """
    if isinstance(evaluator, FunctionEvaluator):
        twin = evaluator.configured()
        twin.bound = {}
        return twin.configured(**options) if options else twin
    kind = type(evaluator)
    if kind.from_recipe.__func__ is not Evaluator.from_recipe.__func__:  # type: ignore[attr-defined]  # a method
        if options:
            raise TypeError("a composite's golden cases cannot bring options of their own")
        return evaluator
    if not options:
        try:
            return kind()
        except (ValueError, TypeError, UserError):
            return evaluator
    kept = {
        field.alias or name: getattr(evaluator.config, name)
        for name, field in kind.Config.model_fields.items()
        if field.is_required()
    }
    return kind(**{**kept, **options})


def _fingerprint_with(evaluator: Evaluator, options: Mapping[str, Any]) -> str | None:
    try:
        return with_options(evaluator, options).fingerprint()
    except (ValueError, TypeError):  # `rft evaluator check` reports it
        return None

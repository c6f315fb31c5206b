"""Structured answers: the share of expected JSON fields that are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import json_of, same_json
from rft.types import Rollout, Score


class JSONFields(Evaluator):
    """Fields of the answer's JSON object that equal the reference's, over all fields compared.

    The answer is one JSON object, alone or inside one ``` fence. With `fields`, only those are compared;
    with `strict`, a field the reference lacks counts as a wrong one. Not an object at all is 0.

    Cannot see: fields that mean the same but differ in spelling or number format.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        fields: list[str] | None = None
        strict: bool = True

    name = "json_fields"
    requires = frozenset({"reference"})
    cases = (
        Case("Classify.", '{"team": "billing", "urgent": true}', 1.0, {"team": "billing", "urgent": True}),
        Case("Classify.", '```json\n{"team": "billing"}\n```', 1.0, '{"team": "billing"}'),
        Case("Classify.", '{"team": "sales", "urgent": true}', 0.5, {"team": "billing", "urgent": True}),
        Case("Classify.", '{"urgent": 1}', 0.0, {"urgent": True}),
        Case("Classify.", '{"team": "billing", "note": "?"}', 0.5, {"team": "billing"}),
        Case(
            "Classify.",
            '{"team": "billing", "note": "?"}',
            1.0,
            {"team": "billing"},
            config={"strict": False},
        ),
        Case(
            "Classify.", '{"team": "billing"}', 1.0, {"team": "billing", "id": 7}, config={"fields": ["team"]}
        ),
        Case("Classify.", 'Here you are: {"team": "billing"}', 0.0, {"team": "billing"}),
        Case("Classify.", '["billing"]', 0.0, {"team": "billing"}),
        Case("Classify.", "{}", "unscored", "not JSON"),
    )

    async def evaluate(self, rollout: Rollout) -> Score:
        gold = _object(rollout.task.reference)
        names = self.config.fields if self.config.fields is not None else list(gold or ())
        if not gold or not names or not gold.keys() >= set(names):
            return Score.skip("the reference is not a JSON object with the fields to compare")
        said = _object(rollout.text)
        if said is None:
            return Score(0.0, reason="not a JSON object")
        wrong = [name for name in names if name not in said or not same_json(said[name], gold[name])]
        extra = sorted(said.keys() - gold.keys()) if self.config.strict and self.config.fields is None else []
        total = len(names) + len(extra)
        reason = f"wrong: {', '.join(wrong + extra)}"[:200] if wrong or extra else None
        return Score((len(names) - len(wrong)) / total, reason=reason)


def _object(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, str):
        value = json_of(value)
    return value if isinstance(value, Mapping) else None

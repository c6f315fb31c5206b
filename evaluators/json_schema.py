"""Structured answers: valid by a JSON schema or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from rft.evaluator import Case, Evaluator
from rft.evaluators._answers import NotJSON, json_of
from rft.types import Rollout, Score

_TICKET = {
    "type": "object",
    "properties": {"team": {"enum": ["sales", "billing"]}, "urgent": {"type": "boolean"}},
    "required": ["team"],
    "additionalProperties": False,
}


class JSONSchema(Evaluator):
    """1 when the answer is JSON that is valid by the schema, else 0 with the first thing that is wrong.

    The answer is one JSON value, alone or inside one ``` fence. The schema is the configured one, else the
    task's field `schema` (an object, or JSON text); draft 2020-12 unless it names another in `$schema`.
    References to other documents are not fetched.

    Cannot see: whether valid values are true. A loose schema is met by an empty object: require fields and
    forbid others. A `pattern` in it is a Python regular expression that no time limit ends.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        json_schema: dict[str, Any] | None = None

        @field_validator("json_schema")
        @classmethod
        def _is_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
            if schema is not None:
                _validator(schema)
            return schema

    name = "json_schema"
    cases = (
        Case("Classify.", '{"team": "sales"}', expect=1.0, fields={"schema": _TICKET}),
        Case("Classify.", '{"team": "sales"}', expect=1.0, fields={"schema": json.dumps(_TICKET)}),
        Case("Classify.", '```json\n{"team": "sales"}\n```', expect=1.0, config={"json_schema": _TICKET}),
        Case("Classify.", '{"team": "legal"}', expect=0.0, config={"json_schema": _TICKET}),
        Case("Classify.", '{"urgent": true}', expect=0.0, config={"json_schema": _TICKET}),
        Case("Classify.", '{"team": "sales", "urgent": 1}', expect=0.0, config={"json_schema": _TICKET}),
        Case("Classify.", '{"team": "sales", "x": 1}', expect=0.0, config={"json_schema": _TICKET}),
        Case("Classify.", "NaN", expect=0.0, config={"json_schema": {"type": "number"}}),
        Case("Classify.", "Sure! {}", expect=0.0, config={"json_schema": {}}),
        Case("Classify.", "", expect=0.0, config={"json_schema": {}}),
        Case("Classify.", "{}", expect="unscored"),
        Case("Classify.", "{}", expect="unscored", fields={"schema": {"type": "no such type"}}),
        Case("Classify.", "{}", expect="unscored", fields={"schema": {"$ref": "http://127.0.0.1:9/s"}}),
    )

    def evaluate(self, rollout: Rollout) -> Score:  # type: ignore[override]  # plain: it computes, in a thread
        schema = self.config.json_schema
        if schema is None:
            raw = rollout.task.metadata.get("schema")
            schema = json_of(raw) if isinstance(raw, str) else raw
        if not isinstance(schema, Mapping):
            return Score.skip("no schema: neither `json_schema` nor a task field `schema` that holds one")
        try:
            validator = _validator(schema)
        except ValueError as error:
            return Score.skip(str(error)[:200])
        said = json_of(rollout.text)
        if said is NotJSON:
            return Score(0.0, reason="not JSON")
        return _verdict(validator, said)


def _validator(schema: Mapping[str, Any]) -> Any:
    """Raises ValueError for what is no schema."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"not a JSON schema: {error.message}") from None
    # An empty registry of its own: the default one fetches remote references over the network.
    return kind(schema, registry=Registry())


def _verdict(validator: Any, said: Any) -> Score:
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        wrong = best_match(validator.iter_errors(said))
    except Unresolvable as error:
        return Score.skip(f"the schema refers to what is not in it: {error.ref}"[:200])
    except RecursionError:
        return Score(0.0, reason="nested too deep")
    if wrong is None:
        return Score(1.0)
    return Score(0.0, reason=f"{wrong.json_path}: {wrong.message[:150]}")

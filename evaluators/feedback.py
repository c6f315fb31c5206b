"""What people said about an answer: thumbs and marks collected in production.

    evaluator:
      use: feedback
      with: {file: thumbs.jsonl}

A row holds a label and says what it is about: the answer's id, or the prompt and the answer. CSV and JSONL.
Labels are few and policies say new things, so most fresh answers have none. That is no opinion, and no
opinion is not a bad one: the sample stays unscored.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rft.errors import DataError
from rft.evaluator import Case, Evaluator
from rft.types import Message, Rollout, Score

_WORDS = {
    **dict.fromkeys(("up", "thumbs_up", "+", "👍", "good", "yes", "true", "like"), 1.0),
    **dict.fromkeys(("down", "thumbs_down", "-", "👎", "bad", "no", "false", "dislike"), 0.0),
}
_THUMBS: list[dict[str, Any]] = [
    {"id": "r-1", "label": "up"},
    {"prompt": "2+2?", "completion": "4", "label": "up"},
    {"prompt": "2+2?", "completion": "5", "label": "down"},
    {"prompt": "3+3?", "completion": "6", "label": "up"},
    {"prompt": "3+3?", "completion": "6", "label": "down"},
]


class Feedback(Evaluator):
    """The mean of an answer's labels, mapped to 0 to 1; unscored when it has none.

    A label belongs to an answer with its id (the rollout's own, or `response_id` in what its environment
    left) or to one with its very prompt and words, white space around them aside. An id in the *task* is not
    looked at: it names the answer that was logged, not the one now given.

    Cannot see: any answer nobody has labelled, also when it differs by a comma; who did not vote, as people
    who are annoyed press buttons more often; why. Fit a model on the labels to score fresh answers.
    """

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        file: str | None = None
        """A .csv or .jsonl file, beside the recipe or given with its whole path."""
        labels: list[dict[str, Any]] = []
        """Rows, instead of a file."""
        id_field: str = "id"
        prompt_field: str = "prompt"
        completion_field: str = "completion"
        label_field: str = "label"
        """Holds up or down, yes or no, or a number on `scale`."""
        scale: tuple[float, float] = Field((0.0, 1.0))
        """The worst and the best number."""

        @model_validator(mode="after")
        def _one_source(self) -> Self:
            if (self.file is None) == (not self.labels):
                raise ValueError("give the labels in a file, or as labels: [...]; one of the two")
            low, high = self.scale
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"scale must rise: [worst, best], got [{low:g}, {high:g}]")
            return self

    name = "feedback"
    cases = (
        Case("2+2?", "4", expect=1.0, config={"labels": _THUMBS}),
        Case("2+2?", " 4\n", expect=1.0, config={"labels": _THUMBS}),
        Case("2+2?", "5", expect=0.0, config={"labels": _THUMBS}),
        Case("3+3?", "6", expect=0.5, config={"labels": _THUMBS}),
        Case("2+2?", "four", expect="unscored", config={"labels": _THUMBS}),
        Case("4+4?", "4", expect="unscored", config={"labels": _THUMBS}),
    )

    def __init__(self, **config: Any) -> None:
        """Reads the labels. Raises DataError for a file or row that cannot be read."""
        super().__init__(**config)
        self._by_id: dict[str, list[float]] = {}
        self._by_text: dict[tuple[str, str], list[float]] = {}
        for where, row in self._rows():
            self._take(where, row)

    async def evaluate(self, rollout: Rollout) -> Score:
        ids = (rollout.id, rollout.env.get("response_id"))
        found = [mark for one in ids if one is not None for mark in self._by_id.get(str(one), ())]
        found = found or self._by_text.get((_prompt(rollout.task.messages), rollout.text.strip()), [])
        if not found:
            return Score.skip("nobody has labelled this answer")
        return Score(math.fsum(found) / len(found), metrics={"labels": float(len(found))})

    def fingerprint(self) -> str:
        """Changes with the labels too, which may be in a file."""
        labels = sorted(self._by_id.items()), sorted(self._by_text.items())
        return hashlib.sha256(repr((super().fingerprint(), labels)).encode()).hexdigest()[:16]

    def _rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if self.config.file is None:
            yield from ((f"labels[{number}]", row) for number, row in enumerate(self.config.labels))
            return
        path = Path(self.config.file).expanduser()
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                yield from _csv(path, lines) if path.suffix == ".csv" else _jsonl(path, lines)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise DataError(f"feedback: {path} cannot be read: {why}") from error

    def _take(self, where: str, row: Mapping[str, Any]) -> None:
        config = self.config
        mark = self._mark(where, row.get(config.label_field))
        known, completion = row.get(config.id_field), row.get(config.completion_field)
        if known not in (None, ""):
            self._by_id.setdefault(str(known), []).append(mark)
        if isinstance(completion, str) and (prompt := row.get(config.prompt_field)):
            self._by_text.setdefault((_row_prompt(where, prompt), completion.strip()), []).append(mark)
        elif known in (None, ""):
            raise DataError(
                f"feedback: {where} says of no answer: it needs {config.id_field}, or {config.prompt_field} "
                f"and {config.completion_field}; it has {', '.join(map(str, row)) or 'nothing'}"
            )

    def _mark(self, where: str, label: Any) -> float:
        low, high = self.config.scale
        if isinstance(label, str) and label.strip().lower() in _WORDS:
            return _WORDS[label.strip().lower()]
        try:
            number = float(label) if not isinstance(label, bool) else low + label * (high - low)
        except (TypeError, ValueError):
            number = math.nan
        if not low <= number <= high:
            raise DataError(
                f"feedback: {where}: {self.config.label_field} must be up, down or a number from {low:g} to "
                f"{high:g} (scale), got {label!r}"
            )
        return (number - low) / (high - low)


def _csv(path: Path, lines: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(lines)
    for row in reader:
        yield f"{path}, line {reader.line_num}", row


def _jsonl(path: Path, lines: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"feedback: {path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"feedback: {path}, line {number} must be a JSON object, got {line.strip()[:60]}")
        yield f"{path}, line {number}", row


def _prompt(messages: tuple[Message, ...]) -> str:
    """A key for a prompt: the text of a lone user message, else all messages as JSON."""
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content.strip()
    return json.dumps([message.to_dict() for message in messages], sort_keys=True)


def _row_prompt(where: str, prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt.strip()
    try:
        return _prompt(tuple(Message.from_dict(one) for one in prompt))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"feedback: {where}: the prompt must be text or chat messages: {error}") from error

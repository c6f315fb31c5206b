"""OpenAI's grader JSON -> the text of a Python module that a user owns: `rft evaluator import grader.json`.

The module makes the evaluators of `openai_graders` and `openai_models`; a formula becomes a function, a
python grader's source a text in it, the judge's address a constant. What cannot be carried over is refused
with the place in the JSON and the reason; what is carried over with a difference is listed at the top of the
module. Nothing of the JSON is run, and every text in it stays a text in the module.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rft.adapters import openai_graders, openai_models
from rft.adapters._formula import FUNCTIONS, Formula, to_python
from rft.adapters._source import Code, module
from rft.errors import UserError
from rft.evaluator import Evaluator

_KEYS = {
    "string_check": {"input", "reference", "operation"},
    "text_similarity": {"input", "reference", "evaluation_metric", "pass_threshold"},
    "score_model": {"input", "model", "range", "sampling_params", "pass_threshold"},
    "label_model": {"input", "model", "labels", "passing_labels", "sampling_params"},
    "python": {"source", "image_tag", "pass_threshold"},
    "multi": {"graders", "calculate_output", "pass_threshold"},
}
_LIMITS = ("max_completions_tokens", "max_completion_tokens")
_SAMPLING = {"temperature", "seed", "top_p", "reasoning_effort", *_LIMITS}
_REFUSED_METRICS = {
    "meteor": "meteor needs WordNet, which rft does not bring; rouge_l and gleu are near it",
    "cosine": "cosine compares OpenAI's own embeddings; a model grader can judge meaning",
}
_ZERO = "an unreadable or impossible verdict has no number and is masked, where OpenAI grades it 0"
_NOTES = {
    "python": "what `grade` raises is a bug that is masked and soon stops the run, where OpenAI grades it 0",
    "image": "python graders import the packages installed here, not those of OpenAI's image",
    "score_model": f"{_ZERO}; a number outside the range is a failure too, where OpenAI cuts it to the range",
    "label_model": _ZERO,
    "text_similarity": "OpenAI does not define its measures; scores may differ from its in the second digit",
    "pass_threshold": "pass_threshold is left out: it decided what was shown as passed, not the reward",
    "output_json": "an answer that is not JSON, or lacks what is read, gets the lowest score",
}


class Refused(UserError):
    """A grader that cannot be carried over: where in the JSON, and why."""


@dataclass
class _Found:
    """What the translation of one file has come upon."""

    notes: list[str] = field(default_factory=list)
    requires: set[str] = field(default_factory=set)
    judged: bool = False

    def note(self, key: str) -> None:
        if _NOTES[key] not in self.notes:
            self.notes.append(_NOTES[key])


def read_grader(path: Path) -> dict[str, Any]:
    """The grader in a JSON file, alone or as `grader` in a fine-tuning job's settings. Raises Refused."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path} cannot be read as JSON: {error}") from error
    for key in ("method", "reinforcement", "grader"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            raw = raw[key]
    if not isinstance(raw, dict) or "type" not in raw:
        raise Refused(f"{path} holds no grader: an object with the key 'type' is expected")
    return raw


def name_for(grader: Mapping[str, Any], path: Path) -> str:
    """A Python name for the evaluator: the grader's own, else the file's."""
    words = re.sub(r"\W+", "_", str(grader.get("name") or path.stem).lower(), flags=re.ASCII).strip("_")
    name = words if words and not words[0].isdigit() else f"grader_{words}"
    taken = keyword.iskeyword(name) or name in (*FUNCTIONS, "calculate_output")
    return f"{name}_grader" if taken else name


def translate(grader: Mapping[str, Any], *, name: str, origin: str) -> str:
    """The module's text.

    Args:
        name: of the evaluator in it.
        origin: the file it was translated from, for the module's first line.

    Raises Refused.
    """
    found = _Found()
    formula: Formula | None = None
    if grader.get("type") == "multi":
        parts, formula = _multi(grader, found)
    else:
        parts = {name: _one(grader, "grader", found)}
    return module(
        name,
        origin,
        parts,
        formula,
        requires=sorted(found.requires),
        notes=found.notes,
        judged=found.judged,
    )


def _multi(grader: Mapping[str, Any], found: _Found) -> tuple[dict[str, Code], Formula]:
    _known_keys(grader, "grader", found)
    graders = grader.get("graders")
    if not isinstance(graders, Mapping) or not graders:
        raise Refused("grader.graders: an object of graders by name is expected")
    parts = {}
    for key, one in graders.items():
        where = f"grader.graders.{key}"
        if not key.isidentifier() or keyword.iskeyword(key) or key in (*FUNCTIONS, "self"):
            raise Refused(f"{where}: {key!r} cannot be a name in a formula; rename the grader")
        if isinstance(one, Mapping) and one.get("type") == "multi":
            raise Refused(f"{where}: a multi grader inside another; OpenAI does not take that either")
        parts[key] = _one(one, where, found)
    try:
        return parts, to_python(str(grader.get("calculate_output", "")), list(parts))
    except ValueError as error:
        raise Refused(f"grader.calculate_output: {error}") from None


def _one(grader: Any, where: str, found: _Found) -> Code:
    if not isinstance(grader, Mapping):
        raise Refused(f"{where}: a grader is an object, got {grader!r:.60}")
    kind = grader.get("type")
    if kind == "endpoint":
        use = "evaluator: {use: openai_endpoint, with: {url: ...}}"
        raise Refused(f"{where}: an endpoint needs no translation, a recipe asks it: {use}")
    if kind not in _MAKERS:
        raise Refused(f"{where}.type: {kind!r} is none of {', '.join(_MAKERS)}, multi")
    _known_keys(grader, where, found)
    made, options = _MAKERS[kind](grader, where, found)
    try:
        evaluator = made(**options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refused(f"{where}.{place}: {first['msg'].removeprefix('Value error, ')}") from None
    found.requires |= evaluator.requires
    if "output_json" in json.dumps(options):
        found.note("output_json")
    return Code(made.__module__, made.__name__, options)


def _known_keys(grader: Mapping[str, Any], where: str, found: _Found) -> None:
    known = _KEYS[str(grader["type"])]
    unknown = sorted(set(grader) - known - {"type", "name"})
    if unknown:
        told = f"a {grader['type']} grader has no {unknown[0]!r}, it has {', '.join(sorted(known))}"
        raise Refused(f"{where}: {told}")
    if grader.get("pass_threshold") is not None:
        found.note("pass_threshold")


Made = tuple[Callable[..., Evaluator], dict[str, Any]]


def _string_check(grader: Mapping[str, Any], where: str, found: _Found) -> Any:
    operation = "ne" if grader.get("operation") == "neq" else grader.get("operation")  # the guide says neq
    return openai_graders.StringCheck, _given(grader, "input", "reference") | {"operation": operation}


def _text_similarity(grader: Mapping[str, Any], where: str, found: _Found) -> Any:
    metric = grader.get("evaluation_metric")
    if metric in _REFUSED_METRICS:
        raise Refused(f"{where}.evaluation_metric: {_REFUSED_METRICS[metric]}")
    found.note("text_similarity")
    return openai_graders.TextSimilarity, _given(grader, "input", "reference") | {"metric": metric}


def _python(grader: Mapping[str, Any], where: str, found: _Found) -> Any:
    found.note("python")
    if grader.get("image_tag"):
        found.note("image")
    source = str(grader.get("source", ""))
    if "def grade" not in source:
        raise Refused(f"{where}.source: it defines no function grade(sample, item)")
    return openai_graders.PythonGrader, {"source": source}


def _score_model(grader: Mapping[str, Any], where: str, found: _Found) -> Any:
    found.note("score_model")
    options = _asked(grader, where, found)
    if grader.get("range") is not None:
        options["range"] = grader["range"]
    return openai_models.ScoreModel, options


def _label_model(grader: Mapping[str, Any], where: str, found: _Found) -> Any:
    found.note("label_model")
    labels = {"labels": grader.get("labels"), "passing": grader.get("passing_labels")}
    return openai_models.LabelModel, _asked(grader, where, found) | labels


_MAKERS: dict[Any, Callable[[Mapping[str, Any], str, _Found], Any]] = {
    "string_check": _string_check,
    "text_similarity": _text_similarity,
    "score_model": _score_model,
    "label_model": _label_model,
    "python": _python,
}


def _given(grader: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: grader.get(key) for key in keys}


def _asked(grader: Mapping[str, Any], where: str, found: _Found) -> dict[str, Any]:
    """What both model graders send."""
    found.judged = True
    messages = grader.get("input")
    if not isinstance(messages, list):
        raise Refused(f"{where}.input: a list of messages is expected")
    options: dict[str, Any] = {
        "input": [_message(one, f"{where}.input.{i}") for i, one in enumerate(messages)],
        "model": grader.get("model"),
    }
    sampling = dict(grader.get("sampling_params") or {})
    if unknown := sorted(set(sampling) - _SAMPLING):
        raise Refused(f"{where}.sampling_params: {unknown[0]!r} is none of {', '.join(sorted(_SAMPLING))}")
    if (temperature := sampling.pop("temperature", None)) is not None:
        options["temperature"] = temperature
    most = next(filter(None, [sampling.pop(name, None) for name in _LIMITS]), None)
    body = {key: value for key, value in sampling.items() if value is not None}
    if "reasoning_effort" in body or re.match(r"o\d|gpt-5", str(grader.get("model"))):
        # Reasoning models take the limit under this name and refuse the other.
        body |= {"max_tokens": None, "max_completion_tokens": most or 4096}
    elif most is not None:
        options["max_tokens"] = most
    return options | ({"body": body} if body else {})


def _message(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise Refused(f"{where}: a message is an object with role and content")
    role = "system" if raw.get("role") == "developer" else raw.get("role")
    content = raw.get("content")
    pieces = content if isinstance(content, list) else [content]
    return {"role": role, "content": "".join(_text(piece, where) for piece in pieces)}


def _text(piece: Any, where: str) -> str:
    if isinstance(piece, str):
        return piece
    if isinstance(piece, Mapping) and isinstance(piece.get("text"), str):
        return str(piece["text"])
    raise Refused(f"{where}.content: only text is carried over, no images and no audio")

"""Relative paths of a recipe made absolute, so that it means the same from any folder.

A path in the file starts beside the recipe; one in an override starts where rft was started, as a shell
completes it. Text is a path when it looks like one (`./`, `../`, `/`, `~`, a data file's ending) or exists;
anything else is a hub id or a name and stays as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rft.recipe.draft import Draft

_FILES = (
    *("model.source", "model.chat_template", "model.adapter.start"),
    *("data.train.source", "data.eval.source"),
)
_CODE = (
    *("data.train.source", "data.eval.source", "evaluator", "environment"),
    *("algorithm.advantage", "algorithm.loss_type"),
)
_ENDINGS = (".jsonl", ".csv", ".parquet", ".gguf", ".jinja")

Rewrite = Callable[[str, list[Path]], str]


def absolute_paths(draft: Draft) -> None:
    """Rewrites the draft in place. Evaluators named inside another one's `with:` are found too."""
    stages = draft.data.get("stages")
    places = [f"stages.{number}." for number in range(len(stages))] if isinstance(stages, list) else []
    for above in ("", *places):
        for path in _FILES:
            _at(draft, above + path, _file)
        for path in _CODE:
            _at(draft, above + path, _code)


def _at(draft: Draft, path: str, rewrite: Rewrite) -> None:
    *above, last = path.split(".")
    section: Any = draft.data
    for key in above:
        if isinstance(section, list):
            section = section[int(key)]  # a stage
        else:
            section = section.get(key) if isinstance(section, dict) else None
    if isinstance(section, dict) and last in section:
        section[last] = _rewritten(draft, path, section[last], rewrite)


def _rewritten(draft: Draft, path: str, value: Any, rewrite: Rewrite) -> Any:
    if isinstance(value, dict):
        return {key: _rewritten(draft, f"{path}.{key}", item, rewrite) for key, item in value.items()}
    if isinstance(value, list):
        return [_rewritten(draft, path, item, rewrite) for item in value]
    if not isinstance(value, str):
        return value
    typed = (draft.origin(path).words or "").startswith("override")
    return rewrite(value, [Path.cwd(), draft.folder] if typed else [draft.folder])


def _file(text: str, bases: list[Path]) -> str:
    expanded = os.path.expanduser(text)
    looks_like_one = expanded.startswith(("./", "../", "/")) or expanded.endswith(_ENDINGS)
    candidates = [os.path.abspath(base / expanded) for base in bases]
    existing = [candidate for candidate in candidates if os.path.exists(candidate)]
    if not text or ":" in text or not (existing or looks_like_one):
        return text
    return (existing or candidates)[0]


def _code(text: str, bases: list[Path]) -> str:
    """`./graders.py:Near` with its file made absolute, and a data file that exists; other text unchanged.

    An evaluator's arguments may be any text, so an ending alone makes no path of them.
    """
    if text.endswith(_ENDINGS):
        return next((path for base in bases if os.path.isfile(path := os.path.abspath(base / text))), text)
    file, colon, attribute = text.rpartition(":")
    if not file.endswith(".py"):
        return text
    candidates = [os.path.abspath(base / os.path.expanduser(file)) for base in bases]
    return next(filter(os.path.exists, candidates), candidates[0]) + colon + attribute

"""One recipe out of its layers: preset < file < overrides, with the origin of every key.

A draft is plain data, so that a mistake in one place does not hide the mistakes elsewhere. Mappings merge
key by key; anything else replaces what was below. Text for a section (`model: NAME`) is spelt out first,
so that layers meet key by key whichever way they were written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rft.errors import Problem
from rft.recipe.document import Document, read_yaml
from rft.recipe.keys import fields_of, section_of
from rft.recipe.presets import list_presets, read_preset
from rft.recipe.problems import did_you_mean
from rft.recipe.schema import Recipe, Section, Use


class Origin(NamedTuple):
    """Where a value was written: a line of the recipe, or words like "override train.steps=5"."""

    line: int | None = None
    words: str | None = None


@dataclass
class Draft:
    """Everything said about one experiment, merged and not yet validated."""

    source: str
    folder: Path
    """Where the recipe lies; its relative paths start here."""
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    """By dotted key."""
    problems: list[Problem] = field(default_factory=list)

    def origin(self, path: str) -> Origin:
        """Where `path`, or the nearest key above it, was written."""
        while path:
            if path in self.origins:
                return self.origins[path]
            path = path.rpartition(".")[0]
        return Origin()

    def blame(self, problems: Sequence[Problem]) -> None:
        """Adds problems, each with the line or override that caused it."""
        for problem in problems:
            line, words = self.origin(problem.path)
            self.problems.append(replace(problem, line=line, origin=words))


def make_draft(source: str, folder: Path, text: str, overrides: Sequence[str]) -> Draft:
    """Reads and merges all layers. Mistakes are collected in `Draft.problems`."""
    document = read_yaml(text)
    draft = Draft(source, folder)
    draft.problems = [Problem("recipe", message, line) for line, message in document.mistakes]
    if not isinstance(document.data, dict):
        if not document.mistakes:
            told = "must be a mapping that names at least model, data and evaluator"
            draft.problems.append(Problem("recipe", told))
        return draft
    draft.data = spell_out(document.data, Recipe)
    draft.origins = _origins(document)
    parsed = list(_parse_overrides(overrides, draft))
    for path, value, text_given in parsed:
        if path == "preset":
            draft.data["preset"], draft.origins["preset"] = value, Origin(words=f"override {text_given}")
    _lay_preset_under(draft)
    for path, value, text_given in parsed:
        if path != "preset":
            _override(draft, path, value, Origin(words=f"override {text_given}"))
    return draft


def _origins(document: Document) -> dict[str, Origin]:
    return {".".join(map(str, path)): Origin(line=line) for path, line in document.lines.items()}


def spell_out(value: Any, section: type[Section]) -> Any:
    """A copy with text for a section replaced by the section: `"exact"` -> `{"use": "exact"}`."""
    if section.shorthand and isinstance(value, section.short_types):
        return {section.shorthand: value}
    if not isinstance(value, dict):
        return value
    if section is Recipe and isinstance(value.get("stages"), list):
        value = {**value, "stages": [spell_out(stage, Recipe) for stage in value["stages"]]}
    fields = fields_of(section)
    inner = {key: section_of(fields[key].annotation) for key in value if key in fields}
    return {
        key: spell_out(item, below) if (below := inner.get(key)) is not None else item
        for key, item in value.items()
    }


def _lay_preset_under(draft: Draft) -> None:
    name = draft.data.get("preset")
    if not isinstance(name, str):
        return
    del draft.data["preset"]
    preset = read_preset(name)
    if preset is None:
        known = [known for known, _ in list_presets()]
        told = f"no such preset{did_you_mean(name, known)}; there are {', '.join(known)}"
        draft.blame([Problem("preset", told, got=f'"{name}"')])
        return
    draft.data = merge(spell_out(preset, Recipe), draft.data)
    for path in _leaves(preset):
        draft.origins.setdefault(path, Origin(words=f"preset {name}"))


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings key by key; anything else is replaced by what is above."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = merge(below[key], above[key])
    return merged


def _leaves(data: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _parse_overrides(overrides: Sequence[str], draft: Draft) -> Iterator[tuple[str, Any, str]]:
    for text in overrides:
        path, equals, raw = text.partition("=")
        if not equals or not all(path.split(".")):
            draft.problems.append(Problem("", "must look like train.steps=5", origin=f"override {text}"))
            continue
        document = read_yaml(raw)
        for _, message in document.mistakes:
            draft.problems.append(Problem(path, message, origin=f"override {text}"))
        if not document.mistakes:
            yield path, document.data, text


def _override(draft: Draft, path: str, value: Any, origin: Origin) -> None:
    """Sets one key. Text for a section sets what it stands for and leaves the section's other keys.

    A new evaluator or environment is the exception: the arguments of the old one mean nothing to it.
    `stages.0.train.steps` is a key of the first stage, which has the keys of a recipe.
    """
    root, place = draft.data, ""
    if path.startswith("stages."):
        place = ".".join(path.split(".")[:2])
        stage = _stage(draft, place)
        path = path.removeprefix(place).removeprefix(".")
        if stage is None or not path:
            stages = draft.data.get("stages")
            count = len(stages) if isinstance(stages, list) else 0
            told = (
                f"cannot be set: there are {count} stages, counted from 0; set a key of one, as in "
                "stages.0.train.steps=5, or all of `stages`"
            )
            draft.problems.append(Problem(f"{place}.{path}".removesuffix("."), told, origin=origin.words))
            return
        root, place = stage, f"{place}."
    section: type[Section] | None = Recipe
    for key in path.split("."):
        known = fields_of(section).get(key) if section is not None else None
        section = section_of(known.annotation) if known is not None else None
    if section is not None and section.shorthand and isinstance(value, section.short_types):
        if issubclass(section, Use):
            was = root.get(path)
            kept = (
                {key: was[key] for key in was if key not in ("use", "with")} if isinstance(was, dict) else {}
            )
            value = kept | {"use": value}
        else:
            path = f"{path}.{section.shorthand}"
    *above, last = path.split(".")
    here = root
    for depth, key in enumerate(above, start=1):
        name = f"{place}{'.'.join(above[:depth])}"
        if here.get(key) is None:
            here[key] = {}
            draft.origins[name] = origin
        here = here[key]
        if not isinstance(here, dict):
            told = f"cannot be set: {name} is {here!r} and holds no keys"
            draft.problems.append(Problem(f"{place}{path}", told, origin=origin.words))
            return
    here[last] = value
    draft.data = spell_out(draft.data, Recipe)
    path = f"{place}{path}"
    for stale in [known for known in draft.origins if known.startswith(f"{path}.")]:
        del draft.origins[stale]
    draft.origins[path] = origin


def _stage(draft: Draft, place: str) -> dict[str, Any] | None:
    """The keys of the stage at `stages.N`, to be set; a kind of algorithm alone is spelt out for that."""
    stages, number = draft.data.get("stages"), place.partition(".")[2]
    if not isinstance(stages, list) or not number.isdecimal() or int(number) >= len(stages):
        return None
    if isinstance(stages[int(number)], str):
        draft.origins[f"{place}.algorithm.kind"] = draft.origin(place)
        stages[int(number)] = {"algorithm": {"kind": stages[int(number)]}}
    stage = stages[int(number)]
    return stage if isinstance(stage, dict) else None

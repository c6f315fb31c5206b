"""Stages: runs one after the other, each from the weights of the one before.

    stages:
      - {algorithm: sft, data: {train: demos.jsonl}, train: {steps: 50}}
      - grpo

A stage is keys laid over the recipe, or text for a kind of algorithm alone. Another kind of algorithm,
another evaluator or another environment brings its own section: what was set for the old one means nothing to
it. All stages train one model, and are judged by the same held-out tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rft.errors import Problem
from rft.recipe.draft import Draft, merge, spell_out
from rft.recipe.schema import Recipe

_FOR_ALL = ("name", "preset", "model", "serve", "stages")
"""Keys that all stages share."""
_NAMED = {"algorithm": "kind", "evaluator": "use", "environment": "use"}
"""Sections whose other keys mean something only for the one that this key names."""
_KEPT = ("require_check",)


@dataclass
class StageDraft(Draft):
    """A stage as a recipe of its own, whose problems belong to the recipe it is a stage of."""

    place: str = ""
    """Its dotted key there: `stages.0`."""

    def report_to(self, whole: Draft) -> None:
        """Hands over the problems that only this stage has."""
        known = {(problem.path, problem.message) for problem in whole.problems}
        for problem in self.problems:
            path = f"{self.place}.{problem.path}"
            if known & {(problem.path, problem.message), (path, problem.message)}:
                continue
            line, words = problem.line, problem.origin
            if line is None and words is None:  # nobody says anything of this key: name the stage
                line, words = whole.origin(self.place)
            whole.problems.append(replace(problem, path=path, line=line, origin=words))
        self.problems.clear()


def stage_recipes(recipe: Recipe) -> list[Recipe]:
    """A recipe for each stage, spelt out; their names are `1-sft`, `2-grpo`."""
    whole = recipe.model_dump(mode="json", by_alias=True)
    found = []
    for number, stage in enumerate(recipe.stages, 1):
        data = _laid_over(whole, stage)
        data["name"] = f"{number}-{data['algorithm']['kind']}"
        found.append(Recipe.model_validate(data))
    return found


def stage_drafts(whole: Draft) -> list[StageDraft]:
    """A draft for each stage, to be checked as a recipe. What cannot be one is blamed on the whole."""
    stages = whole.data.get("stages")
    found = []
    for number, stage in enumerate(stages if isinstance(stages, list) else ()):
        place = f"stages.{number}"
        if not isinstance(stage, str | Mapping):
            continue  # the schema says so
        draft = StageDraft(whole.source, whole.folder, _laid_over(whole.data, stage), place=place)
        own = {
            path.removeprefix(f"{place}."): origin
            for path, origin in whole.origins.items()
            if path.startswith(f"{place}.")
        }
        if isinstance(stage, str):
            own["algorithm"] = own["algorithm.kind"] = whole.origin(place)
        else:
            draft.problems += _misplaced(whole, stage, place)
        # Text for a section stands for a key below it, of which the recipe's own line says nothing any more.
        below = {
            path: origin
            for path, origin in whole.origins.items()
            if path.rpartition(".")[0] not in own or path in own
        }
        draft.origins = below | own
        found.append(draft)
    return found


def _misplaced(whole: Draft, stage: Mapping[str, Any], place: str) -> list[Problem]:
    line, words = whole.origin(place)
    told = [(key, "is the same for all stages: set it beside `stages`") for key in _FOR_ALL if key in stage]
    own, data = stage.get("data"), whole.data.get("data")
    judges = {**(data if isinstance(data, Mapping) else {}), **(own if isinstance(own, Mapping) else {})}
    if isinstance(own, Mapping) and "train" in own and judges.get("eval") is None:
        told.append(("data.train", "is other data, so set data.eval: the same tasks judge all stages"))
    return [Problem(key, message, line=line, origin=words) for key, message in told]


def _laid_over(whole: Mapping[str, Any], stage: str | Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's keys under the stage's."""
    own = {"algorithm": {"kind": stage}} if isinstance(stage, str) else spell_out(dict(stage), Recipe)
    below = {key: value for key, value in whole.items() if key != "stages"}
    for section, name in _NAMED.items():
        old, new = below.get(section), own.get(section)
        if not isinstance(old, dict) or not isinstance(new, dict) or name not in new:
            continue
        if new[name] != old.get(name, "grpo" if section == "algorithm" else None):
            below[section] = {key: old[key] for key in old if key in _KEPT}
    return merge(below, {key: value for key, value in own.items() if key not in _FOR_ALL})

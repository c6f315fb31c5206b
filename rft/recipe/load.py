"""A recipe from a file, a shipped name and overrides; and back to text.

    load_recipe("quickstart", ["train.steps=5", "model.adapter.rank=8"])

All mistakes come out together as one RecipeError, each with its line or override and the nearest known key.
Paths are relative to the recipe's own file and absolute in the result, so a resolved recipe means the same
from any folder.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rft.errors import Problem, RecipeError
from rft.recipe.document import write_yaml
from rft.recipe.draft import Draft, make_draft
from rft.recipe.keys import nearest_key
from rft.recipe.paths import absolute_paths
from rft.recipe.presets import summary
from rft.recipe.problems import from_pydantic
from rft.recipe.schema import Recipe
from rft.recipe.stages import stage_drafts


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at a path, or shipped under a bare name, with its preset and overrides applied.

    Raises RecipeError with every mistake.
    """
    draft, recipe = draft_recipe(source, overrides)
    if recipe is None:
        raise RecipeError(draft.source, draft.problems)
    return recipe


def draft_recipe(source: str | Path, overrides: Sequence[str] = ()) -> tuple[Draft, Recipe | None]:
    """The merged layers, and the recipe if they hold no mistake.

    Raises RecipeError only when there is no file to read.
    """
    path = find_recipe(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(source), [Problem("recipe", f"cannot be read: {error}")]) from error
    return _drafted(str(source), path.resolve().parent, text, overrides)


def recipe_from(values: Mapping[str, Any], *, source: str, folder: Path) -> Recipe:
    """A recipe given as a mapping, by a test or a notebook.

    Args:
        source: what error messages call it.
        folder: where its relative paths start.

    Raises RecipeError with every mistake.
    """
    draft, recipe = _drafted(source, folder, json.dumps(values), ())
    if recipe is None:
        raise RecipeError(source, draft.problems)
    return recipe


def _drafted(source: str, folder: Path, text: str, overrides: Sequence[str]) -> tuple[Draft, Recipe | None]:
    draft = make_draft(source, folder, text, overrides)
    if str(folder) not in sys.path:  # for `module:Class`; last, so that it hides nothing installed
        sys.path.append(str(folder))
    absolute_paths(draft)
    recipe = None
    if draft.data:
        try:
            recipe = Recipe.model_validate(draft.data)
        except ValidationError as error:
            draft.blame(from_pydantic(error, draft.data, "", nearest_key))
        for stage in stage_drafts(draft):
            try:
                Recipe.model_validate(stage.data)
            except ValidationError as error:
                stage.blame(from_pydantic(error, stage.data, "", nearest_key))
            stage.report_to(draft)
    return draft, None if draft.problems else recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every key spelt out; `load_recipe` reads it back as an equal recipe.

    It holds names of environment variables, never their values.
    """
    return write_yaml(recipe.model_dump(mode="json", by_alias=True))


def list_recipes() -> list[tuple[str, str]]:
    """(name, first line of its header comment) of every shipped recipe."""
    return [(name, summary(path)) for name, path in sorted(_shipped().items())]


def find_recipe(source: str | Path) -> Path:
    """The file that `source` names. Raises RecipeError with the nearest existing names."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    shipped = _shipped()
    if str(source) in shipped:
        return shipped[str(source)]
    if path.is_dir():
        raise RecipeError(str(source), [Problem("recipe", "is a folder; name the .yaml file in it")])
    nearby = [str(path.parent / file.name) for file in sorted(path.parent.glob("*.y*ml"))]
    known = [*nearby, *shipped] if path.parent == Path() else nearby
    close = difflib.get_close_matches(str(path), known, 3, cutoff=0.5) or known[:5]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise RecipeError(str(source), [Problem("recipe", f"no such file, and no shipped recipe{hint}")])


def _shipped() -> dict[str, Path]:
    folder = Path(str(files("rft._recipes")))
    return {path.stem: path for path in folder.glob("*.yaml")}

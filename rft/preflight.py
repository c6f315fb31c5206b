"""Everything that can be known about a recipe in under a second, before torch or a model loads.

Schema, names, the evaluator's arguments, files, and the first rows of the data against what the evaluator
reads. A mistake in one place does not hide the others. What only a download or a long computation could
tell is a note, not a guess.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from rft.check.report import Report as CheckReport
from rft.check.report import read_report, store_report, stored_report
from rft.data.rows import kind_of
from rft.data.source import load_tasks
from rft.errors import DataError, Problem, RecipeError, ResolveError, RunError
from rft.evaluator import Evaluator
from rft.formulas import wrong_formulas
from rft.recipe.draft import Draft
from rft.recipe.load import draft_recipe
from rft.recipe.problems import did_you_mean
from rft.recipe.resolve import resolve_callable, resolve_environment, resolve_evaluator
from rft.recipe.schema import (
    AlgorithmSpec,
    EvaluatorUse,
    Examples,
    ModelSpec,
    Recipe,
    Section,
    SourceSpec,
    TrackingSpec,
    Use,
)
from rft.recipe.stages import stage_drafts
from rft.runs.folder import RunFolder
from rft.runs.tracker_kinds import KINDS

PEEK_ROWS = 20

S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Report:
    """What the check found."""

    source: str
    recipe: Recipe | None
    """The resolved recipe; None when its keys or values are wrong."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    """What will only show when the run starts."""

    @property
    def ok(self) -> bool:
        """Whether nothing wrong was found."""
        return not self.problems


def check_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Report:
    """Checks a recipe without torch. Raises RecipeError only when there is no file to read."""
    draft, recipe = draft_recipe(source, overrides)
    notes: list[str] = []
    stages = stage_drafts(draft)
    for stage in stages:
        _look_at(stage, notes)
        stage.report_to(draft)
    if not stages:
        _look_at(draft, notes)
    return Report(draft.source, recipe, tuple(draft.problems), tuple(dict.fromkeys(notes)))


def _look_at(draft: Draft, notes: list[str]) -> None:
    evaluator = _evaluator(draft)
    _environment(draft)
    algorithm = _part(draft, "algorithm", AlgorithmSpec)
    answers = algorithm.examples if algorithm is not None else None
    has_eval = _part(draft, "data.eval", SourceSpec) is not None
    for name in ("data.train", "data.eval"):
        spec = _part(draft, name, SourceSpec)
        if spec is None:
            continue
        if name == "data.eval" or answers is None:
            _data(draft, name, spec, evaluator, notes)
        else:  # the evaluator sees examples only where some of them are held out
            _data(draft, name, spec, None if has_eval else evaluator, notes, answers)
    if algorithm is not None and answers is None:
        draft.blame(list(wrong_formulas(algorithm, evaluator, draft.folder)))
    model = _part(draft, "model", ModelSpec)
    if model is not None:
        _model(draft, model, notes)
    _trackers(draft)


def require_check(
    evaluator: Evaluator,
    asked: Literal["pass", "warn", "none"],
    run: RunFolder,
    note: Callable[[str], None],
) -> None:
    """Holds an evaluator to its check (`evaluator.require_check`); the report goes into the run's folder.

    A run that goes on elsewhere brings its report along. Raises RunError for `pass` without a passing report.
    """
    if asked == "none":
        return
    fingerprint = evaluator.fingerprint()
    report = stored_report(fingerprint) or read_report(run.check_path, fingerprint)
    if report is not None:
        store_report(report, run.path, run.check_path.stem)
    trouble = _unchecked(evaluator, report)
    if trouble is not None and asked == "pass":
        raise RunError(f"{trouble}: rft evaluator check {run.recipe_path} (evaluator.require_check is pass)")
    if trouble is not None:
        note(f"{trouble}: rft evaluator check {run.recipe_path}")


def _unchecked(evaluator: Evaluator, report: CheckReport | None) -> str | None:
    """Why a check does not vouch for the evaluator; None when it does."""
    if report is None:
        return f"evaluator {evaluator.name} has not been checked as it is now ({evaluator.fingerprint()})"
    if report.passed:
        return None
    stages = (
        ", ".join(stage.stage for stage in report.stages if stage.outcome == "fail") or "nothing to go by"
    )
    return f"evaluator {evaluator.name} failed its check of {report.time} ({stages}); mend it and check again"


def _part(draft: Draft, path: str, section: type[S]) -> S | None:
    """A section of a recipe that may be wrong elsewhere; None when it is wrong itself (already reported)."""
    value: Any = draft.data
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    try:
        return section.model_validate(value)
    except ValidationError:
        return None


def _evaluator(draft: Draft) -> Evaluator | None:
    use = _part(draft, "evaluator", EvaluatorUse)
    if use is None:
        return None
    try:
        evaluator = resolve_evaluator(use, draft.folder)
        if use.require_check == "pass":
            trouble = _unchecked(evaluator, stored_report(evaluator.fingerprint()))
            if trouble is not None:
                draft.blame(
                    [Problem("evaluator.require_check", f"{trouble}: rft evaluator check", got="pass")]
                )
        return evaluator
    except RecipeError as error:
        draft.blame(error.problems)
    except ResolveError as error:
        draft.blame([Problem("evaluator.use", str(error))])
    return None


def _environment(draft: Draft) -> None:
    use = _part(draft, "environment", Use)
    if use is None:
        return
    try:
        resolve_environment(use, draft.folder)
    except RecipeError as error:
        draft.blame(error.problems)
    except ResolveError as error:
        draft.blame([Problem("environment.use", str(error))])


def _data(
    draft: Draft,
    path: str,
    spec: SourceSpec,
    evaluator: Evaluator | None,
    notes: list[str],
    answers: Examples | None = None,
) -> None:
    kind = kind_of(spec.source)
    try:
        if kind == "file":
            requires = evaluator.requires if evaluator is not None else frozenset()
            load_tasks(spec, seed=0, requires=requires, limit=PEEK_ROWS, answers=answers)
            return
        if kind == "function":
            resolve_callable(spec.source, draft.folder)
    except (DataError, ResolveError) as error:
        draft.blame([Problem(path, str(error))])
        return
    if kind == "reasoning-gym" and find_spec("reasoning_gym") is None:
        told = "needs the extra `envs`: pip install 'rft-loop[envs]'"
        draft.blame([Problem(f"{path}.source", told, got=spec.source)])
    elif kind == "dataset" and os.path.isabs(spec.source) and not os.path.exists(spec.source):
        draft.blame([Problem(f"{path}.source", _no_file(spec.source))])
    else:
        notes.append(f"{path}: the rows of {spec.source} are read when the run starts")


def _model(draft: Draft, model: ModelSpec, notes: list[str]) -> None:
    for path, file in (("model.source", model.source), ("model.chat_template", model.chat_template)):
        if file is not None and (os.path.isabs(file) or path == "model.chat_template"):
            if not os.path.exists(file):
                draft.blame([Problem(path, _no_file(file))])
        elif file is not None:
            notes.append(f"{path}: {file} is fetched when the run starts, unless it is cached")


def _trackers(draft: Draft) -> None:
    spec = _part(draft, "tracking", TrackingSpec)
    for name in spec.to if spec is not None else ():
        if find_spec(KINDS[name].package) is None:
            told = f"{KINDS[name].package} is not installed: {KINDS[name].install}"
            draft.blame([Problem("tracking.to", told, got=name)])


def _no_file(text: str) -> str:
    path = Path(text)
    beside = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    return f"no file or folder {text}{did_you_mean(path.name, beside)}"

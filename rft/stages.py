"""A recipe's stages, one run after the other in one process, each from the weights of the one before.

    runs/<name>/<id>/             the whole: recipe, status, report; the newest stage's checkpoints
        stages/1-sft/<id>/        an ordinary run, with its own resolved recipe
        stages/2-grpo/<id>/

A stage's recipe names the checkpoint it starts from, so it can be read, repeated and gone on with alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rft.around import status
from rft.errors import RunError, UserError
from rft.fork import require_same_experiment
from rft.heldout import Judged, summarise
from rft.offline import train_offline
from rft.progress import Progress
from rft.recipe.load import dump_recipe
from rft.recipe.schema import Recipe
from rft.recipe.stages import stage_recipes
from rft.runs.checkpoint import latest
from rft.runs.folder import RunFolder
from rft.runs.summary import Summary
from rft.runs.view import View
from rft.train import train


def run_recipe(recipe: Recipe, *, view: View, resume: RunFolder | None = None, **options: Any) -> Summary:
    """Trains what a recipe asks for: its stages, or the one page of its algorithm.

    Args:
        resume: a run to go on with; of stages, the folder of the whole.
        options: those of `rft.train.train`.
    """
    if not recipe.stages:
        page = train if recipe.algorithm.examples is None else train_offline
        return page(recipe, view=view, resume=resume, **options)
    if options.pop("fork", None) is not None:
        raise UserError("--fork begins one run from another's checkpoint: take a recipe without stages")
    return _run_stages(recipe, view, resume, options)


def _run_stages(recipe: Recipe, view: View, resume: RunFolder | None, options: dict[str, Any]) -> Summary:
    started = time.perf_counter()
    whole = resume or RunFolder.create(recipe.train.output_dir, recipe.name, dump_recipe(recipe))
    if resume is not None:
        require_same_experiment(whole, recipe)
    recipes = stage_recipes(recipe)
    done = Progress()
    finished: list[Summary] = []
    with status(whole, sum(stage.train.steps for stage in recipes), done):
        start: Path | None = None
        for number, stage in enumerate(recipes, 1):
            stage = _from(start, recipe, stage, whole)
            before = _newest(whole, stage)
            if before is not None and _is_done(before, stage):
                summary = _told_again(before)
            else:
                view.note(f"stage {number} of {len(recipes)}: {stage.algorithm.kind}")
                summary = run_recipe(stage, view=view.another(stage.train.steps), resume=before, **options)
            run = RunFolder(Path(summary.run))
            finished.append(summary)
            done.step += summary.steps
            start = latest(run)
            _point_to(whole, run)
            if summary.steps < stage.train.steps:  # Ctrl-C; the stage has said how to go on
                break
            view.note(f"stage {number} of {len(recipes)}: {summary.short()}, in {run.path}")
    result = _together(whole, finished, time.perf_counter() - started)
    whole.write_report(result.to_markdown())
    return result


def _from(start: Path | None, recipe: Recipe, stage: Recipe, whole: RunFolder) -> Recipe:
    """A stage's recipe with where it starts, where it is kept and the name it is served under."""
    changes: dict[str, Any] = {"train": stage.train.model_copy(update={"output_dir": str(whole.stages_path)})}
    if stage.serve is not None and stage.serve.model_name is None:
        changes["serve"] = stage.serve.model_copy(update={"model_name": recipe.name})
    adapter = stage.model.adapter
    if start is not None and adapter is None:
        changes["model"] = stage.model.model_copy(update={"source": str(start.resolve()), "revision": None})
    elif start is not None and adapter is not None:
        begun = adapter.model_copy(update={"start": str(start.resolve())})
        changes["model"] = stage.model.model_copy(update={"adapter": begun})
    return stage.model_copy(update=changes)


def _is_done(run: RunFolder, stage: Recipe) -> bool:
    """Whether nothing is left to do, also where a run that goes on asks for more steps than before."""
    return run.status.state == "finished" and run.status.step >= stage.train.steps


def _newest(whole: RunFolder, stage: Recipe) -> RunFolder | None:
    runs = sorted((whole.stages_path / stage.name).glob("*/recipe.yaml"))
    return RunFolder(runs[-1].parent) if runs else None


def _told_again(run: RunFolder) -> Summary:
    """The summary of a stage that an earlier process finished."""
    judged = Judged.stored(run)
    if not judged:
        raise RunError(f"{run.path} has lost its held-out answers, so its stage cannot be summed up")
    seconds = sum(row.get("time/step_s") or 0.0 for row in run.metrics())
    return summarise(run, run.status.step, seconds, judged[0], judged[-1])


def _point_to(whole: RunFolder, run: RunFolder) -> None:
    """Makes the newest stage's checkpoints those of the whole, for `rft serve`, `rft eval` and `--fork`."""
    link = whole.checkpoints_path
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        link.rmdir()
    link.symlink_to(os.path.relpath(run.checkpoints_path, link.parent))


def _together(whole: RunFolder, stages: Sequence[Summary], seconds: float) -> Summary:
    first, last = (RunFolder(Path(stages[index].run)) for index in (0, -1))
    steps = sum(stage.steps for stage in stages)
    result = summarise(whole, steps, seconds, Judged.stored(first)[0], Judged.stored(last)[-1])
    return replace(result, stages=stages)

"""Where a run begins: at nothing or another run's checkpoint, in a new folder, or where it was saved last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rft.fork import Origin, forked_from, require_same_experiment
from rft.progress import Progress
from rft.recipe.load import dump_recipe
from rft.recipe.schema import Recipe
from rft.runs.folder import RunFolder


def begin(
    recipe: Recipe, resume: RunFolder | None, fork: Origin | None, note: Callable[[str], None]
) -> tuple[RunFolder, Progress]:
    """The folder and the start of a run: a new one, a fork's, or one that goes on where it was saved last.

    What a run that goes on wrote down after its checkpoint is taken back, as it is done again.

    Raises RunError when none of its checkpoints is whole, or the recipe does not fit.
    """
    if resume is None:
        progress = Progress() if fork is None else _forked(recipe, fork, note)
        written = dump_recipe(recipe), None if fork is None else fork.to_json()
        return RunFolder.create(recipe.train.output_dir, recipe.name, *written), progress
    changes = require_same_experiment(resume, recipe)
    progress = Progress.newest(resume, note)
    started_over = progress.checkpoint is None or progress.is_fork
    resume.rewind(-1 if started_over else progress.step, {} if started_over else progress.state["marks"])
    for change in changes:
        note(f"changed: {change}")
    resume.write_recipe(dump_recipe(recipe))
    resume.event("resumed", step=progress.step, changes=[str(change) for change in changes])
    return resume, progress


def _forked(recipe: Recipe, fork: Origin, note: Callable[[str], None]) -> Progress:
    """The start of a fork, and its differences told. Raises RunError when the recipe does not fit."""
    changes = forked_from(fork, recipe)
    progress = Progress.at(Path(fork.checkpoint), is_fork=True)
    note(f"forked from {fork.run} at step {fork.step}" + ("" if changes else ", nothing changed"))
    for change in changes:
        note(f"changed: {change}")
    return progress

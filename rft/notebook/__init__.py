"""The notebook's five words: sample, load_rollouts, preview, diff, add_case.

    from rft.notebook import add_case, diff, preview, sample

    rollouts = sample("packaged:smollm2-135m-instruct", [{"prompt": "2+2?", "reference": "4"}], n=8)
    preview(near, rollouts)                      # score, reason, and where training would push each answer
    diff(near, nearer, rollouts)                 # what a change of the evaluator changes
    add_case(rollouts[3], expect=0.0, evaluator=nearer)

They block until done, and work where an event loop already runs, as in every notebook.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rft import background
from rft.data.rows import Row
from rft.data.tasks import to_task
from rft.errors import RunError, UserError
from rft.notebook.cases import add_case
from rft.notebook.preview import diff, preview
from rft.recipe.schema import Recipe, SourceSpec
from rft.types import Rollout, Score, Task

__all__ = ["add_case", "diff", "load_rollouts", "preview", "sample"]

Prompts = str | Sequence[str | Mapping[str, Any] | Task]


def sample(
    model: str,
    prompts: Prompts,
    n: int = 8,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    system: str | None = None,
    seed: int = 0,
    recipe: Recipe | None = None,
    api_key_env: str | None = None,
    output_dir: str = "runs",
) -> list[Rollout]:
    """Lets a model answer each prompt `n` times.

    Args:
        model: a run, a checkpoint, a model source (`packaged:tiny`, a folder, a hub id), or an endpoint
            `http://host/v1#name`. A local model is loaded for the call and let go after it.
        prompts: user messages; or rows as data files have them, with `prompt`, `reference` and any field that
            an evaluator reads; or tasks.
        temperature: 0 is greedy, and then `n` must be 1.
        max_new_tokens: sampled tokens per turn.
        recipe: whose environment, engine and sampling to use; what is given here besides goes before it.
        api_key_env: the environment variable with the endpoint's key.
        output_dir: where runs are looked for.

    Returns:
        The rollouts, prompt by prompt. An answer that did not come is left out, with a warning.

    Raises UserError for wrong input or when no answer came at all.
    """
    from rft.contestant import open_model
    from rft.engine.open import prepare_process
    from rft.rollout.collect import collect
    from rft.runs.quiet import Quiet
    from rft.runs.view import View

    tasks = _tasks(prompts, system)
    settings = _settings(recipe, model, n, temperature, max_new_tokens, seed)
    api_key = _key(api_key_env)
    prepare_process()
    log = Path(tempfile.mkdtemp(prefix="rft-sample-")) / "engine.log"
    with (
        Quiet(log),
        open_model(
            model, settings, tasks, view=View(1, quiet=True), api_key=api_key, output_dir=output_dir
        ) as contestant,
    ):
        groups = background.run(
            collect(
                contestant.player,
                _unjudged,
                contestant.tasks,
                group_size=n,
                seed_parts=(seed, "sample"),
                temperature=temperature,
            )
        )
    pairs = [pair for group in groups for pair in zip(group.rollouts, group.scores, strict=True)]
    lost = [score for _, score in pairs if score.failure is not None]
    if lost:
        told = f"{len(lost)} of {len(pairs)} answers did not come: {lost[0].explain()}"
        if len(lost) == len(pairs):
            raise UserError(told)
        warnings.warn(told, stacklevel=2)
    return [rollout for rollout, score in pairs if score.failure is None]


def load_rollouts(
    run: str | Path, *, step: int | None = None, split: str = "train", output_dir: str = "runs"
) -> list[Rollout]:
    """The answers that a run has stored.

    Args:
        run: a path, an id, or a name for the newest run of that name.
        step: which step's; the newest when left out.
        split: "train", or "heldout" for the answers it was judged by.

    Raises RunError when there are none.
    """
    from rft.runs.folder import RunFolder
    from rft.runs.stored import read_groups

    folder = RunFolder.open(run, output_dir)
    files = {int(path.stem.rpartition("-")[2]): path for path in folder.rollout_files(split)}
    if not files:
        raise RunError(f"run {folder.id} has stored no {split} rollouts yet")
    if step is not None and step not in files:
        raise RunError(
            f"run {folder.id} has no {split} rollouts of step {step}; it has {_named(list(files))}"
        )
    groups = read_groups(files[max(files) if step is None else step])
    # Without a turn the model never spoke: its environment failed.
    return [rollout for group in groups for rollout in group.rollouts if rollout.turns]


async def _unjudged(rollout: Rollout) -> Score:
    return Score.skip("not judged yet")


def _tasks(prompts: Prompts, system: str | None) -> list[Task]:
    source = SourceSpec(source="prompts", system=system)
    rows = [prompts] if isinstance(prompts, str) else list(prompts)
    if not rows:
        raise UserError("there are no prompts to answer")
    tasks = [
        row if isinstance(row, Task) else to_task(Row(f"prompt {number}", _as_row(row)), source, number)
        for number, row in enumerate(rows)
    ]
    return tasks


def _as_row(row: Any) -> Mapping[str, Any]:
    if isinstance(row, str):
        return {"prompt": row}
    if isinstance(row, Mapping):
        return row
    raise UserError(f"a prompt is text, a row of data or a Task, got {type(row).__name__}")


def _settings(
    recipe: Recipe | None, model: str, n: int, temperature: float, max_new_tokens: int, seed: int
) -> Recipe:
    from rft.recipe.load import recipe_from

    if n < 1:
        raise UserError(f"n must be at least 1, got {n}")
    evaluation = {"samples": n, "temperature": temperature}
    if recipe is None:
        # Data and evaluator are what every recipe names; sampling asks neither.
        values = {"model": model, "data": {"train": "prompts.jsonl"}, "evaluator": "constant", "seed": seed}
        values |= {"eval": evaluation, "rollout": {"max_new_tokens": max_new_tokens}}
        return recipe_from(values, source="sample", folder=Path.cwd())
    if n > 1 and temperature == 0:
        raise UserError(f"temperature 0 gives the same answer {n} times; set a temperature, or n=1")
    return recipe.model_copy(
        update={
            "seed": seed,
            "eval": recipe.eval.model_copy(update=evaluation),
            "rollout": recipe.rollout.model_copy(update={"max_new_tokens": max_new_tokens}),
        }
    )


def _key(variable: str | None) -> str | None:
    if variable is not None and not os.environ.get(variable):
        raise UserError(f"api_key_env: the environment variable {variable} is not set")
    return None if variable is None else os.environ[variable]


def _named(steps: list[int]) -> str:
    return f"steps {min(steps)} to {max(steps)}" if len(steps) > 1 else f"step {steps[0]}"

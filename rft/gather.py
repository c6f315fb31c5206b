"""What an evaluator is tried on: tasks, a run's or a model's own answers, labels, runs with controls."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rft import background
from rft.check.bench import Label, Plan
from rft.data.source import load_tasks
from rft.errors import UserError
from rft.recipe.load import list_recipes
from rft.recipe.schema import Recipe, SourceSpec
from rft.runs.folder import RunFolder
from rft.runs.quiet import Quiet
from rft.runs.view import View
from rft.types import Rollout, Score, Task

_MOST_TASKS = 512
_MOST_ROLLOUTS = 4096


@dataclass(frozen=True)
class Material:
    """What an evaluator is tried on, beside its golden cases."""

    tasks: Sequence[Task] = ()
    rollouts: Sequence[Rollout] = ()
    labels: Sequence[Label] = ()
    plan: Plan | None = None
    policy: str | None = None
    """Whose answers the rollouts are."""
    controls: Mapping[str, Mapping[str, float]] | None = None


def gather(
    recipe: Recipe | None,
    view: View,
    *,
    tasks: str | None = None,
    prompts: int = 0,
    rollouts: str | None = None,
    labels: Sequence[Label] = (),
    controls: int = 0,
    output_dir: str = "runs",
    debug: bool = False,
) -> Material:
    """What a check is tried on, from what was asked on the command line.

    Args:
        tasks: a file of tasks, instead of the recipe's.
        prompts: so many are sampled from the recipe's model; 0 for none.
        rollouts: a run whose stored rollouts are taken.
        controls: steps to train with each control; 0 for none.

    Raises UserError for what cannot be read, sampled or trained.
    """
    known: list[Task] = []
    if tasks is not None:
        known = load_tasks(SourceSpec(source=tasks), seed=0, limit=_MOST_TASKS)
    elif recipe is not None:
        known = load_tasks(recipe.data.train, seed=recipe.seed, limit=_MOST_TASKS)
    plan = plan_of(recipe) if recipe else None
    answers: list[Rollout] = []
    whose, trained = None, None
    if rollouts is not None:
        from rft.replay import stored_groups

        run = RunFolder.open(rollouts, output_dir)
        groups = stored_groups(run)
        # Those without a turn were never finished.
        answers = [one for group in groups for one in group.rollouts if one.turns][-_MOST_ROLLOUTS:]
        whose = f"run {run.id}"
    if recipe is not None and (prompts or controls):
        scratch = Path(tempfile.mkdtemp(prefix="rft-check-"))  # stays, with its log, when something breaks
        with Quiet(scratch / "check.log", debug=debug):
            if prompts:
                answers, plan = sample_policy(recipe, known, prompts, view)
                whose = recipe.model.source
            if controls:
                trained = train_controls(recipe, controls, view, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    return Material(known, answers, labels, plan, whose, trained)


def sample_policy(
    recipe: Recipe, tasks: Sequence[Task], prompts: int, view: View
) -> tuple[list[Rollout], Plan]:
    """Answers of the recipe's own model, sampled as its training will, and how fast they came.

    Raises UserError for what recipe and machine make impossible.
    """
    # These bring the engine along, which most checks do without.
    from rft.contestant import open_model
    from rft.engine.open import prepare_process
    from rft.rollout.collect import collect

    async def later(rollout: Rollout) -> Score:
        return Score.skip("scored on the bench")

    prepare_process()
    view.phase("loading model")
    with open_model(None, recipe, list(tasks[:prompts]), view=view) as contestant:
        view.phase("sampling")
        began = time.perf_counter()
        groups = background.run(
            collect(
                contestant.player,
                later,
                contestant.tasks,
                group_size=recipe.rollout.group_size,
                seed_parts=(recipe.seed, "check"),
                temperature=recipe.rollout.temperature,
                on_progress=view.progress,
            )
        )
        seconds = time.perf_counter() - began
    finished = [
        rollout
        for group in groups
        for rollout, score in zip(group.rollouts, group.scores, strict=True)
        if score.failure is None  # the environment gave up on the others
    ]
    return finished, plan_of(recipe, len(finished) / seconds)


def plan_of(recipe: Recipe, rollouts_per_s: float | None = None) -> Plan:
    """How much the recipe's training will ask of the evaluator."""
    train = recipe.train
    return Plan(train.prompts_per_step, recipe.rollout.group_size, train.steps, rollouts_per_s)


def train_controls(recipe: Recipe, steps: int, view: View, scratch: Path) -> dict[str, dict[str, float]]:
    """Trains a few steps with the evaluator and with each control, and judges all on the held-out tasks.

    Returns held-out scores by task, under `evaluator`, `random` and `constant`. Runs go into `scratch`.

    Raises UserError for a recipe whose training the evaluator does not decide.
    """
    kind = "several stages" if recipe.stages else recipe.algorithm.examples
    if kind is not None:
        raise UserError(
            f"controls show what training on an evaluator's scores does, and this recipe learns by {kind}: "
            "take one of grpo or ppo without stages, or leave --controls out"
        )
    from rft.evaluate import evaluate
    from rft.train import train

    found = {}
    for name in ("evaluator", "random", "constant"):
        view.note(f"controls: {steps} steps with {name}")
        use: dict[str, Any] = {"require_check": "none"}
        use |= {} if name == "evaluator" else {"use": name, "with_": {}}
        changed = {
            "name": name,
            "serve": None,
            "evaluator": recipe.evaluator.model_copy(update=use),
            "train": recipe.train.model_copy(update={"steps": steps, "output_dir": str(scratch)}),
        }
        run = train(recipe.model_copy(update=changed), view=View(steps, quiet=True)).run
        judged = evaluate(recipe, [run], view=View(1, quiet=True))
        found[name] = dict(judged.results[0].means)
    return found


def is_recipe(target: str) -> bool:
    """Whether a word means a recipe and not an evaluator; an evaluator's name wins."""
    if target.endswith((".yaml", ".yml")):
        return True
    if ":" in target or target in entry_points(group="rft.evaluators").names:
        return False
    return target in {name for name, _ in list_recipes()}

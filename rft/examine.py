"""Puts an evaluator on the bench: `rft evaluator check`. Brings runner, data, engine and files to the stages.

Everything is scored by `ScoringRunner`, as in training, but without a cache: a stored verdict would hide that
an evaluator changes its mind.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rft import background
from rft.chat import wanting_base
from rft.check.bench import Bench, Label, Plan
from rft.check.findings import Thresholds
from rft.check.report import Report
from rft.check.run import STAGES, run_stages
from rft.data.source import load_tasks
from rft.errors import UserError
from rft.evaluator import Evaluator, FunctionEvaluator
from rft.recipe.schema import Recipe
from rft.runs.view import View
from rft.scoring.runner import ScoringRunner
from rft.types import Rollout, Score, Task

_PACKAGES = ("rft-loop", "numpy", "scipy", "pydantic", "httpx")
_MOST_TASKS = 512
_DEFAULT = Thresholds()


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


def examine(
    evaluator: Evaluator,
    material: Material = Material(),
    *,
    stages: Sequence[str] = (),
    thresholds: Thresholds = _DEFAULT,
    on_stage: Callable[[str], None] = lambda name: None,
) -> Report:
    """Runs the stages and reports.

    Args:
        stages: those to run, all when empty.
        on_stage: is told which one begins.

    Raises UserError for an evaluator that cannot be set up, or a stage that does not exist.
    """
    unknown = [name for name in stages if name not in STAGES]
    if unknown:
        raise UserError(f"there is no stage {unknown[0]!r}; the stages are {', '.join(STAGES)}")
    if next(wanting_base(evaluator), None) is not None:
        raise UserError(
            f"evaluator {evaluator.name} is judged by the base weights of a run's engine, which a check has "
            "not; give the judge url and model of an endpoint (`rft serve` makes one) to check it"
        )

    async def run() -> Report:
        async with _Runners(evaluator) as runners:
            bench = Bench(
                evaluator,
                runners.score,
                tasks=material.tasks,
                rollouts=material.rollouts,
                labels=material.labels,
                plan=material.plan,
                controls=material.controls,
                thresholds=thresholds,
            )
            results = await run_stages(bench, list(stages) or list(STAGES), on_stage)
        return Report(
            evaluator=evaluator.name or type(evaluator).__name__,
            fingerprint=evaluator.fingerprint(),
            stages=results,
            complete=not stages,
            config=options_of(evaluator),
            dataset=_digest(material.tasks),
            policy=material.policy,
            versions=_versions(),
            thresholds=thresholds,
        )

    return background.run(run())


def tasks_of(recipe: Recipe) -> list[Task]:
    """The recipe's training tasks, the first of them where there are many. Raises DataError."""
    return load_tasks(recipe.data.train, seed=recipe.seed, limit=_MOST_TASKS)


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


def train_controls(recipe: Recipe, steps: int, view: View) -> dict[str, dict[str, float]]:
    """Trains a few steps with the evaluator and with each control, and judges all on the held-out tasks.

    Returns held-out scores by task, under `evaluator`, `random` and `constant`. The runs are thrown away.
    """
    from rft.evaluate import evaluate
    from rft.train import train

    found = {}
    with tempfile.TemporaryDirectory(prefix="rft-controls-") as scratch:
        for name in ("evaluator", "random", "constant"):
            view.note(f"controls: {steps} steps with {name}")
            use: dict[str, Any] = {"require_check": "none"}
            use |= {} if name == "evaluator" else {"use": name, "with_": {}}
            changed = {
                "name": name,
                "serve": None,
                "evaluator": recipe.evaluator.model_copy(update=use),
                "train": recipe.train.model_copy(update={"steps": steps, "output_dir": scratch}),
            }
            run = train(recipe.model_copy(update=changed), view=View(steps, quiet=True)).run
            judged = evaluate(recipe, [run], view=View(1, quiet=True), output_dir=scratch)
            found[name] = judged.results[0].means
    return found


def options_of(evaluator: Evaluator) -> dict[str, Any]:
    """Its options as a recipe would have them; secrets by name."""
    if isinstance(evaluator, FunctionEvaluator):
        return dict(evaluator.bound)
    config = evaluator.config
    return {} if config is None else config.model_dump(mode="json", by_alias=True)


class _Runners:
    """Runners by evaluator, opened when first asked for and closed together."""

    def __init__(self, main: Evaluator) -> None:
        self._main = main
        self._open: dict[object, ScoringRunner] = {}

    async def __aenter__(self) -> _Runners:
        await self._runner(self._main)
        return self

    async def __aexit__(self, *exception: object) -> None:
        for runner in self._open.values():
            await runner.close()

    async def score(self, evaluator: Evaluator, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores in order, each group settled."""
        runner = await self._runner(evaluator)
        scores = list(await asyncio.gather(*map(runner.score, rollouts)))
        groups: dict[str, list[int]] = defaultdict(list)
        for index, rollout in enumerate(rollouts):
            groups[rollout.group_id].append(index)
        for members in groups.values():
            settled = await runner.settle([rollouts[i] for i in members], [scores[i] for i in members])
            for index, score in zip(members, settled, strict=True):
                scores[index] = score
        return scores

    async def _runner(self, evaluator: Evaluator) -> ScoringRunner:
        # Twins with other limits or of another origin have the same fingerprint.
        key = (evaluator.fingerprint(), evaluator.limits, evaluator.origin)
        if key not in self._open:
            runner = ScoringRunner(evaluator)
            await runner.setup()
            self._open[key] = runner
        return self._open[key]


def _digest(tasks: Sequence[Task]) -> str | None:
    if not tasks:
        return None
    told = [
        [task.id, [m.to_dict() for m in task.messages], task.reference, dict(task.metadata)] for task in tasks
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

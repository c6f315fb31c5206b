"""Puts an evaluator on the bench: `rft evaluator check`. Brings runner, data, engine and files to the stages.

Everything is scored by `ScoringRunner`, as in training, but without a cache: a stored verdict would hide that
an evaluator changes its mind.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import ValidationError

from rft import background
from rft.chat import wanting_base
from rft.check.bench import Bench
from rft.check.findings import DEFAULTS, Thresholds
from rft.check.report import Report
from rft.check.run import STAGES, run_stages
from rft.errors import UserError
from rft.evaluator import Evaluator, FunctionEvaluator
from rft.gather import Material
from rft.recipe.problems import did_you_mean
from rft.scoring.runner import ScoringRunner
from rft.types import Rollout, Score, Task

_PACKAGES = ("rft-loop", "numpy", "scipy", "pydantic", "httpx")
_NOTHING = Material()


def examine(
    evaluator: Evaluator,
    material: Material = _NOTHING,
    *,
    stages: Sequence[str] = (),
    thresholds: Thresholds = DEFAULTS,
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
    if list(wanting_base(evaluator)):
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


def options_of(evaluator: Evaluator) -> dict[str, Any]:
    """Its options as a recipe would have them; secrets by name."""
    if isinstance(evaluator, FunctionEvaluator):
        return dict(evaluator.bound)
    config = evaluator.config
    return {} if config is None else config.model_dump(mode="json", by_alias=True)


def read_thresholds(words: Sequence[str]) -> Thresholds:
    """Thresholds from NAME=VALUE. Raises UserError."""
    given = dict(word.partition("=")[::2] for word in words)
    try:
        return Thresholds.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        near = did_you_mean(name, list(Thresholds.model_fields))
        raise UserError(f"--set {name}={given[name]}: {first['msg'].lower()}{near}") from error


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

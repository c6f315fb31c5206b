"""Compares models with a recipe's evaluator, on the recipe's held-out tasks: `rft eval`.

Every model answers the same tasks through the same environment with the same seeds, so two models differ
task by task and a paired difference is narrower than the two intervals. Local models run on the embedded
engine one after another; nobody writes their weights, so vLLM may repack them for speed.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rft import background
from rft.contestant import Contestant, open_model
from rft.data.split import load_heldout
from rft.engine.open import prepare_process
from rft.errors import UserError
from rft.judging import score_with
from rft.recipe.resolve import resolve_evaluator
from rft.recipe.schema import Recipe
from rft.rollout.collect import collect
from rft.rollout.endpoint import NUM_TOKENS
from rft.runs.comparison import Answers, Comparison, Verdict, no_worse, paired, reaches
from rft.runs.quiet import Quiet
from rft.runs.view import View
from rft.scoring.health import FailureWatch
from rft.scoring.runner import ScoringRunner
from rft.types import Group, Rollout, Task

FIRST = "first"
"""As a baseline: the first model named."""


@dataclass(frozen=True)
class Goals:
    """What makes a comparison pass.

    Args of `rft eval`: `min_score` is asked of every model, `no_worse_than` ("first" or a model) of every
    model but that one, up to `margin`.
    """

    min_score: float | None = None
    no_worse_than: str | None = None
    margin: float = 0.0


def evaluate(
    recipe: Recipe,
    models: Sequence[str] = (),
    *,
    view: View,
    tasks: int | None = None,
    ks: Sequence[int] = (),
    threshold: float | None = None,
    goals: Goals = Goals(),
    api_key_env: str | None = None,
    concurrency: int = 16,
    output_dir: str = "runs",
    debug: bool = False,
) -> Comparison:
    """Lets every model answer the held-out tasks and compares their scores.

    Args:
        models: runs, checkpoints, model sources (see `rft.target`) or endpoints `http://host/v1#name`; the
            recipe's own model when empty.
        view: shows progress; entered and left here.
        tasks: how many held-out tasks, instead of the recipe's `eval.tasks`.
        ks: of pass@k; 1 and `eval.samples` when empty.
        threshold: the score from which on an answer passes; the top of the evaluator's range when unset.
        api_key_env: the variable with the endpoints' key.
        concurrency: conversations with one endpoint at a time.
        debug: leave the libraries' output on the terminal.

    Raises UserError for wrong input, EngineError when an engine dies.
    """
    ks = sorted(set(ks)) or sorted({1, recipe.eval.samples})
    if ks[0] < 1 or ks[-1] > recipe.eval.samples:
        raise UserError(f"pass@{ks[-1]} needs --samples {ks[-1]} or more, got {recipe.eval.samples}")
    names, reference = _line_up(models or [recipe.model.source], goals.no_worse_than)
    api_key = _api_key(api_key_env)
    scratch = Path(tempfile.mkdtemp(prefix="rft-eval-"))
    view.total_steps = len(names)
    with view, Quiet(scratch / "eval.log", debug=debug), ExitStack() as stack:
        evaluator = resolve_evaluator(recipe.evaluator)
        threshold = evaluator.range[1] if threshold is None else threshold
        view.phase("reading data")
        heldout = _heldout(recipe, evaluator.requires, tasks, view)
        runner = score_with(evaluator, stack)
        prepare_process()
        results = []
        for name in names:
            view.phase(f"loading {name}")
            with open_model(
                name if models else None,
                recipe,
                heldout,
                view=view,
                api_key=api_key,
                concurrency=concurrency,
                output_dir=output_dir,
            ) as contestant:
                results.append(_answers(name, contestant, recipe, runner, view))
            del contestant
            gc.collect()  # the engine's tensors hang in cycles; the next model needs their memory
    shutil.rmtree(scratch, ignore_errors=True)
    return Comparison(
        recipe=recipe.name,
        evaluator=runner.name,
        fingerprint=runner.fingerprint,
        samples=recipe.eval.samples,
        temperature=recipe.eval.temperature,
        results=results,
        reference=reference,
        threshold=threshold,
        ks=ks,
        verdicts=_verdicts(results, reference, goals, recipe),
    )


def _line_up(models: Sequence[str], baseline: str | None) -> tuple[list[str], str]:
    """Every model once, and the one that others are compared with; a baseline not listed comes first."""
    twice = [name for name in models if models.count(name) > 1]
    if twice:
        raise UserError(f"--model {twice[0]} is given twice; every model needs naming once")
    names = list(models)
    reference = names[0] if baseline in (None, FIRST) else str(baseline)
    if reference not in names:
        names.insert(0, reference)
    if baseline is not None and len(names) == 1:
        raise UserError("--no-worse-than needs a second model; name one more with --model")
    return names, reference


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(f"--api-key-env: the environment variable {variable} is not set")
    return os.environ[variable]


def _heldout(recipe: Recipe, requires: frozenset[str], tasks: int | None, view: View) -> list[Task]:
    wanted = tasks or recipe.eval.tasks
    if recipe.data.eval is None and wanted > recipe.eval.tasks:
        raise UserError(
            f"--tasks {wanted} is more than the {recipe.eval.tasks} tasks that training sets aside "
            "(eval.tasks); the others were trained on. Set data.eval to tasks of their own, or take fewer"
        )
    heldout = load_heldout(
        recipe.data,
        num_heldout=wanted,
        seed=recipe.seed,
        requires=requires,
        answers=recipe.algorithm.examples,
    )
    if len(heldout) < wanted:
        view.note(f"{len(heldout)} held-out tasks instead of {wanted}: there are no more")
    return heldout


def _answers(name: str, contestant: Contestant, recipe: Recipe, runner: ScoringRunner, view: View) -> Answers:
    view.phase("rollout")
    started = time.perf_counter()
    groups = background.run(
        collect(
            contestant.player,
            runner.score,
            contestant.tasks,
            group_size=recipe.eval.samples,
            # Those of the held-out evaluation in training, whose figures come out again here.
            seed_parts=(recipe.seed, "heldout"),
            temperature=recipe.eval.temperature,
            settle=runner.settle,
            ready=runner.ready,
            on_progress=view.progress,
        )
    )
    answers = Answers(
        model=name,
        weights=contestant.weights,
        version=contestant.version,
        groups=groups,
        lengths=_lengths(groups),
        left_out=contestant.left_out,
        seconds=time.perf_counter() - started,
    )
    if answers.estimate is not None:
        view.heldout(answers.estimate.mean, answers.estimate.low, answers.estimate.high, name)
    view.step(
        {
            "time/rollout_s": answers.seconds,
            "rollout/tokens_per_s": sum(answers.lengths) / answers.seconds,
            **{f"fail/{kind}": float(count) for kind, count in answers.failures.items()},
        }
    )
    return answers


def _lengths(groups: Sequence[Group]) -> list[float]:
    def length(rollout: Rollout) -> float | None:
        return float(rollout.num_tokens) if rollout.turns else rollout.metrics.get(NUM_TOKENS)

    found = [length(rollout) for group in groups for rollout in group.rollouts]
    return [tokens for tokens in found if tokens is not None]


def _verdicts(results: Sequence[Answers], reference: str, goals: Goals, recipe: Recipe) -> list[Verdict]:
    verdicts = []
    for answers in results:
        trouble = _trouble(answers, recipe)
        if trouble is not None:
            verdicts.append(Verdict(answers.model, False, trouble))
        if goals.min_score is not None:
            verdicts.append(reaches(answers, goals.min_score))
    if goals.no_worse_than is not None:
        base = next(answers for answers in results if answers.model == reference)
        others = [answers for answers in results if answers is not base]
        verdicts += [no_worse(a.model, reference, paired(a, base), goals.margin) for a in others]
    return verdicts


def _trouble(answers: Answers, recipe: Recipe) -> str | None:
    """Why a mean should not be believed: nothing was scored, or as much failed as would stop training."""
    scores = [score for group in answers.groups for score in group.scores]
    watch = FailureWatch(recipe.train.max_failure_rate, recipe.train.max_bugs, window=len(scores))
    for score in scores:
        watch.record(score)
    return watch.reason() or ("nothing was scored" if not answers.means else None)
